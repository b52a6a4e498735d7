//! The authorizer with a hook on paper, over tokio's paused clock.

use super::*;
use crate::datapath::inbox::{self, Inbox};

type Calls = Arc<std::sync::Mutex<Vec<serde_json::Value>>>;

struct Bench {
    queue: AskQueue,
    mailbox: Mailbox,
    inbox: Inbox,
    calls: Calls,
    forget: Forget,
    next: u64,
}

impl Bench {
    /// An authorizer whose hook gives `answer`, after a second.
    fn new(keep: u64, answer: impl Fn(&str) -> Called + Send + Sync + 'static) -> Self {
        let (keep, forget) = (Duration::from_secs(keep), Forget::default());
        let (queue, authorizer) = open("example.org", keep, forget.clone(), &mut Registry::default());
        let poll = mio::Poll::new().expect("a poll");
        let (mailbox, inbox) = inbox::open(mio::Waker::new(poll.registry(), mio::Token(0)).expect("a waker"));
        let calls = Calls::default();
        let (seen, answer) = (Arc::clone(&calls), Arc::new(answer));
        tokio::spawn(authorizer.ask_with(move |body| {
            let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
            async move {
                let asked: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
                let username = asked["username"].as_str().expect("a name").to_owned();
                seen.lock().expect("no panic").push(asked);
                tokio::time::sleep(Duration::from_secs(1)).await;
                answer(&username)
            }
        }));
        Self { queue, mailbox, inbox, calls, forget, next: 0 }
    }

    fn ask(&mut self, username: &str) -> AskId {
        self.next += 1;
        let query = Query {
            by: self.mailbox.clone(),
            ask: AskId(self.next),
            username: username.into(),
            transport: Transport::Tls,
        };
        self.queue.try_send(query).expect("room");
        AskId(self.next)
    }

    fn answer(&self) -> Option<(AskId, Authorization)> {
        match self.inbox.take()? {
            Parcel::Authorized { ask, authorization } => Some((ask, authorization)),
            Parcel::Claim(_)
            | Parcel::Claimed { .. }
            | Parcel::Client { .. }
            | Parcel::Summon(_)
            | Parcel::Summoned { .. } => panic!("nobody asked for that"),
        }
    }

    async fn wait(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_millis(seconds * 1000 + 10)).await;
    }

    fn calls(&self) -> usize {
        self.calls.lock().expect("no panic").len()
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_reload_is_to_forget_is_asked_anew() {
    let mut bench = Bench::new(300, |_| accepted(r#"{"allowed": true, "password": "p"}"#));
    let mut answered = async |after: u64, calls: usize| {
        bench.ask("alice");
        if after > 0 {
            bench.wait(after).await;
            bench.forget.all();
        }
        bench.wait(2).await;
        assert!(matches!(bench.answer(), Some((_, Authorization::Allowed(_)))));
        assert_eq!(bench.calls(), calls);
    };
    answered(0, 1).await;
    answered(0, 1).await;
    // Answered from the cache; then comes the reload.
    answered(1, 1).await;
    answered(0, 2).await;
    answered(0, 2).await;
}

#[tokio::test(start_paused = true)]
async fn answer_that_was_on_its_way_during_a_reload_is_not_remembered() {
    let mut bench = Bench::new(300, |_| accepted(r#"{"allowed": true, "password": "p"}"#));
    for calls in 1..=2 {
        bench.ask("alice");
        tokio::time::sleep(Duration::from_millis(500)).await;
        bench.forget.all();
        bench.wait(2).await;
        assert!(matches!(bench.answer(), Some((_, Authorization::Allowed(_)))));
        assert_eq!(bench.calls(), calls);
    }
}

fn accepted(answer: &str) -> Called {
    Called::Accepted(answer.as_bytes().to_vec())
}

#[tokio::test(start_paused = true)]
async fn user_is_asked_about_once_however_many_wait_and_remembered_for_a_while() {
    let mut bench = Bench::new(300, |_| accepted(r#"{"allowed": true, "password": "map"}"#));
    let asks = [bench.ask("dora"), bench.ask("dora")];
    bench.wait(1).await;
    assert_eq!(
        bench.calls.lock().unwrap()[0],
        serde_json::json!({"username": "dora", "realm": "example.org", "transport": "tls"})
    );
    for ask in asks {
        let (answered, authorization) = bench.answer().expect("an answer");
        assert_eq!(answered, ask);
        assert!(matches!(authorization, Authorization::Allowed(_)));
    }
    bench.wait(297).await;
    bench.ask("dora");
    bench.wait(0).await;
    assert!(matches!(bench.answer(), Some((_, Authorization::Allowed(_)))));
    assert_eq!(bench.calls(), 1);
    bench.wait(3).await;
    bench.ask("dora");
    bench.wait(1).await;
    assert_eq!(bench.calls(), 2, "after five minutes the hook is asked anew");
}

#[tokio::test(start_paused = true)]
async fn refusal_is_remembered_for_ten_seconds_and_an_answer_no_longer_than_it_says() {
    let mut bench = Bench::new(300, |username| match username {
        "dora" => accepted(r#"{"allowed": true, "password": "map", "expires_in": 20}"#),
        _ => accepted(r#"{"allowed": false}"#),
    });
    for (user, keep) in [("mallory", 10), ("dora", 20)] {
        let before = bench.calls();
        bench.ask(user);
        bench.wait(1).await;
        bench.wait(keep - 2).await;
        bench.ask(user);
        bench.wait(1).await;
        assert_eq!(bench.calls(), before + 1, "{user} is remembered");
        bench.wait(2).await;
        bench.ask(user);
        bench.wait(1).await;
        assert_eq!(bench.calls(), before + 2, "{user} is forgotten");
    }
    let refused =
        std::iter::from_fn(|| bench.answer()).filter(|(_, answer)| matches!(answer, Authorization::Refused));
    assert_eq!(refused.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn hook_that_fails_or_says_nonsense_lets_nobody_in_and_is_not_remembered() {
    let digits = "ab".repeat(16);
    for (answer, good) in [
        (Called::Failed("status 503".into()), false),
        (Called::Refused(400), false),
        (accepted(""), false),
        (accepted("true"), false),
        (accepted(r#"{"allowed": true}"#), false),
        (accepted(r#"{"allowed": true, "password": "map", "lifetime": 1}"#), false),
        (accepted(r#"{"allowed": true, "password": "map", "md5": "00"}"#), false),
        (accepted(r#"{"allowed": true, "md5": "00"}"#), false),
        (accepted(&format!(r#"{{"allowed": true, "md5": "{}+1"}}"#, &digits[2..])), false),
        (accepted(&format!(r#"{{"allowed": true, "md5": "{digits}"}}"#)), true),
        (accepted(&format!(r#"{{"allowed": true, "sha256": "{digits}{digits}"}}"#)), true),
    ] {
        let shown = format!("{answer:?}");
        let mut bench = Bench::new(300, move |_| answer.clone());
        for _ in 0..2 {
            bench.ask("dora");
            bench.wait(1).await;
            let (_, authorization) = bench.answer().expect("an answer");
            assert_eq!(matches!(authorization, Authorization::Allowed(_)), good, "{shown}");
            assert_eq!(matches!(authorization, Authorization::Unavailable), !good, "{shown}");
        }
        assert_eq!(bench.calls(), if good { 1 } else { 2 }, "{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_are_bounded_and_so_is_who_waits_for_one() {
    let mut bench = Bench::new(300, |_| accepted(r#"{"allowed": false}"#));
    for n in 0..CALLS + 1 {
        bench.ask(&format!("user-{n}"));
    }
    bench.wait(0).await;
    assert_eq!(bench.calls(), CALLS);
    bench.wait(1).await;
    assert_eq!(bench.calls(), CALLS + 1);
    bench.wait(1).await;
    while bench.answer().is_some() {}

    for batch in 0..2 {
        for n in 0..600 {
            bench.ask(&format!("other-{batch}-{n}"));
        }
        bench.wait(0).await;
    }
    let busy = std::iter::from_fn(|| bench.answer())
        .filter(|(_, answer)| matches!(answer, Authorization::Unavailable));
    assert_eq!(busy.count(), 1200 - CALLS - WAITING, "answered at once");
}

#[test]
fn cache_keeps_the_newest() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let mut cache = Cache::default();
        let verdict =
            || Verdict { authorization: Authorization::Refused, until: Instant::now() + KEEP_REFUSAL };
        for n in 0..=CACHED {
            cache.put(n.to_string().into(), verdict());
        }
        assert!(
            cache.get("0").is_none() && cache.get("1").is_some() && cache.get(&CACHED.to_string()).is_some()
        );
        assert_eq!((cache.verdicts.len(), cache.order.len()), (CACHED, CACHED));
    });
}
