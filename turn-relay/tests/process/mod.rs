//! The binary in a process of its own, and what it says.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use crate::client::PATIENCE;

/// A relay in a process of its own; killed if it is still there in the end.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    /// What was read of its log so far.
    pub(crate) seen: String,
    pub(crate) serving: SocketAddr,
    pub(crate) admin: Option<SocketAddr>,
}

impl Running {
    /// With a user of its own. `limits` are arguments of the shell's `ulimit`.
    pub(crate) fn start(flags: &[&str], limits: &[&str]) -> Self {
        Self::start_with(&[&["--user", "user:password"], flags].concat(), limits)
    }

    /// With these flags and no others.
    pub(crate) fn start_with(flags: &[&str], limits: &[&str]) -> Self {
        let ulimit = if limits.is_empty() { String::new() } else { format!("ulimit {}; ", limits.join(" ")) };
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{ulimit}exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_turn-relay")])
            .args(flags);
        Self::spawn(&mut command, flags.contains(&"--admin"))
    }

    /// Waits until it says where it serves, and where its admin listener is if it has one.
    pub(crate) fn spawn(command: &mut Command, wants_admin: bool) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        // A pipe has no deadline of its own. Ends when the process does.
        std::thread::spawn(move || {
            let mut line = String::new();
            while log.read_line(&mut line).is_ok_and(|read| read > 0) {
                if sender.send(std::mem::take(&mut line)).is_err() {
                    break;
                }
            }
        });
        let nowhere = "0.0.0.0:0".parse().unwrap();
        let mut running = Self { child, lines, seen: String::new(), serving: nowhere, admin: None };
        while running.serving == nowhere || (wants_admin && running.admin.is_none()) {
            let line = running.line();
            let address = |before: &str, after: char| {
                let rest = line.split_once(before)?.1;
                rest.split(after).next()?.parse().ok()
            };
            if running.serving == nowhere {
                running.serving = address("STUN and TURN on ", ',').unwrap_or(nowhere);
            }
            running.admin = running.admin.or_else(|| address("http://", '/'));
        }
        running
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Reads its log until a line says so, and gives that line.
    pub(crate) fn wait_for(&mut self, words: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(words) {
                return line;
            }
        }
    }

    /// One line, in time.
    fn line(&mut self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                self.seen += &line;
                line
            }
            Err(RecvTimeoutError::Timeout) => panic!("it says nothing more: {}", self.seen),
            Err(RecvTimeoutError::Disconnected) => panic!("it ended: {}", self.seen),
        }
    }

    /// Lets go of what it wrote so far, which may be much.
    pub(crate) fn forget_log(&mut self) {
        while self.lines.try_recv().is_ok() {}
    }

    /// What its admin listener answers, head and body.
    pub(crate) fn get(&self, path: &str) -> String {
        self.ask("GET", path, "", "")
    }

    /// The same to any request; each of its own headers ends its line.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> String {
        self.request(method, path, &format!("Host: localhost\r\n{headers}"), body)
    }

    /// The same, with a Host of its own.
    pub(crate) fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.admin.unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n{headers}");
        write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub(crate) fn signal(&self, signal: i32) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args([format!("-{signal}"), id]).status().unwrap();
        assert!(status.success());
    }

    /// Sends the signal and gives the exit code.
    pub(crate) fn stop(&mut self, signal: i32) -> Option<i32> {
        self.signal(signal);
        self.exit_code()
    }

    /// Waits until it has ended.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < end, "it does not end: {}", self.log_so_far());
            std::thread::yield_now();
        }
    }

    fn log_so_far(&mut self) -> &str {
        while let Ok(line) = self.lines.try_recv() {
            self.seen += &line;
        }
        &self.seen
    }

    /// All that it wrote; only once it has ended.
    pub(crate) fn log(&mut self) -> String {
        // The reading thread ends with the pipe.
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.seen += &line;
        }
        self.seen.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
