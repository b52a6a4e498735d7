//! One connection in the virtual network, with what may go wrong on its way of travelling.
//!
//! A WebSocket is two lines of frames. Of an event stream the way up is POSTs, one at a time, each of which may be lost,
//! repeated and overtaken by its own repetition. Of polls the way down is answers, each of which is lost whole.

use std::collections::VecDeque;

use signaling::hub;

use super::schedule::Way;

#[derive(Clone, Debug)]
pub(super) enum Down {
    Frame(String),
    Close(u16),
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) who: usize,
    pub(super) client: signaling_client::ConnId,
    pub(super) hub: hub::ConnId,
    pub(super) way: Way,
    /// The client listens to it.
    pub(super) live: bool,
    /// The server has read the hello.
    pub(super) greeted: bool,
    /// Nothing new gets in at either end; what is under way may still arrive.
    pub(super) cut: bool,
    /// As `cut`, and neither end is told.
    pub(super) half_open: bool,
    /// The server reads no more of it, or has forgotten it.
    pub(super) deaf: bool,
    /// What goes up is held up.
    pub(super) stalled: bool,
    /// The next answer is lost; whether the client is told.
    pub(super) lose: Option<bool>,
    /// A hello that is under way arrives twice.
    pub(super) hello_twice: bool,
    up: VecDeque<String>,
    /// The request that is under way.
    post: Option<Vec<String>>,
    /// What was sent last, a frame or a body.
    last: Vec<String>,
    /// Repetitions that come some time.
    late: VecDeque<Vec<String>>,
    down: VecDeque<Down>,
    answer: Option<Vec<Down>>,
}

impl Link {
    pub(super) fn new(
        who: usize,
        client: signaling_client::ConnId,
        hub: hub::ConnId,
        way: Way,
        stalled: bool,
    ) -> Self {
        Self {
            who,
            client,
            hub,
            way,
            live: true,
            greeted: false,
            cut: false,
            half_open: false,
            deaf: false,
            stalled,
            lose: None,
            hello_twice: false,
            up: VecDeque::new(),
            post: None,
            last: Vec::new(),
            late: VecDeque::new(),
            down: VecDeque::new(),
            answer: None,
        }
    }

    pub(super) fn write(&mut self, text: String) {
        if !self.cut {
            self.up.push_back(text);
        }
    }

    pub(super) fn push(&mut self, down: Down) {
        assert!(!self.deaf, "something after the close");
        if !self.cut {
            self.down.push_back(down);
        }
    }

    /// Breaks; about `arrives` of 255 of what is under way still gets through.
    pub(super) fn cut(&mut self, arrives: u8) {
        let share = |length: usize| length * usize::from(arrives) / 255;
        self.cut = true;
        self.up.truncate(share(self.up.len()));
        self.down.truncate(share(self.down.len()));
        if arrives.is_multiple_of(2) {
            self.post = None;
        }
        if arrives.is_multiple_of(3) {
            self.answer = None;
        }
    }

    pub(super) fn has_up(&self) -> bool {
        !self.stalled && (!self.up.is_empty() || self.post.is_some() || !self.late.is_empty())
    }

    pub(super) fn has_down(&self) -> bool {
        !self.down.is_empty() || self.answer.is_some()
    }

    pub(super) fn is_hello_under_way(&self) -> bool {
        let hello = self.post.iter().flatten().chain(&self.up).next();
        self.way != Way::Socket && !self.greeted && hello.is_some_and(|text| text.contains("\"resume\""))
    }

    /// What reaches the server next.
    pub(super) fn carry_up(&mut self) -> Vec<String> {
        if self.way == Way::Socket {
            let frame: Vec<_> = self.up.pop_front().into_iter().collect();
            self.last.clone_from(&frame);
            return frame;
        }
        if let Some(body) = self.post.take() {
            self.last.clone_from(&body);
            return body;
        }
        // A hello travels alone: what follows it needs the key.
        let size = if self.greeted { self.up.len() } else { self.up.len().min(1) };
        if size > 0 {
            self.post = Some(self.up.drain(..size).collect());
            return Vec::new();
        }
        self.late.pop_front().unwrap_or_default()
    }

    /// What reaches the client next, and whether it is told that something was lost.
    pub(super) fn carry_down(&mut self) -> (Vec<Down>, bool) {
        if self.way != Way::Polls {
            return (self.down.pop_front().into_iter().collect(), false);
        }
        match self.answer.take() {
            None => {
                self.answer = Some(self.down.drain(..).collect());
                (Vec::new(), false)
            }
            Some(answer) => match self.lose.take() {
                Some(told) => (Vec::new(), told),
                None => (answer, false),
            },
        }
    }

    /// Somebody on the way sends again what was sent last.
    pub(super) fn repeat(&mut self) {
        if self.is_hello_under_way() {
            self.hello_twice = true;
        } else if self.way == Way::Socket {
            if let [frame] = self.last.as_slice()
                && !frame.contains("\"hello\"")
            {
                self.write(frame.clone());
            }
        } else if self.last.iter().all(|frame| !frame.contains("\"hello\"")) && !self.last.is_empty() {
            self.late.push_back(self.last.clone());
        }
    }
}
