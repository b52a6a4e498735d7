//! The authorization hook: what it is asked, what its answers mean, and that nobody comes in without one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::{Router, routing::post};
use tokio::net::TcpListener;
use turn_relay::operation::hook::{Caller, Hook, HookSecret, HookUrl};

use super::super::HookAuthority;
use super::*;

/// A program of the operator's that says what the test wants.
struct Program {
    url: String,
    questions: Arc<Mutex<Vec<Value>>>,
    answer: Arc<Mutex<(StatusCode, String)>>,
}

impl Program {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/may-enter", listener.local_addr().unwrap());
        let questions = Arc::new(Mutex::new(Vec::new()));
        let answer = Arc::new(Mutex::new((StatusCode::OK, String::new())));
        let (asked, said) = (questions.clone(), answer.clone());
        let reply = move |headers: HeaderMap, body: Bytes| async move {
            assert!(headers.contains_key("signaling-signature"), "{headers:?}");
            asked.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
            said.lock().unwrap().clone()
        };
        tokio::spawn(
            async move { axum::serve(listener, Router::new().route("/may-enter", post(reply))).await },
        );
        Self { url, questions, answer }
    }

    fn says(&self, answer: &Value) {
        *self.answer.lock().unwrap() = (StatusCode::OK, answer.to_string());
    }

    fn asked(&self) -> usize {
        self.questions.lock().unwrap().len()
    }

    fn authority(&self, keep: u64) -> Authority {
        let url = HookUrl::parse("auth_hook", &self.url).unwrap();
        let caller = Caller { agent: "signaling", signature: "signaling-signature" };
        let hook = Hook::new("auth_hook", &url, &HookSecret::new("a secret of the hook"), caller).unwrap();
        Authority::Hook(Box::new(HookAuthority::new(hook, Duration::from_secs(keep), Identity::Several)))
    }
}

async fn may_enter(authority: &Authority, token: &str) -> Result<Grant, Denial> {
    let token = token.parse().unwrap();
    authority.grant(&room("lobby"), Some(&token)).await.map(|grant| grant.expect("a grant"))
}

#[tokio::test]
async fn the_hook_is_asked_about_room_and_token_and_says_what_is_granted() {
    let program = Program::start().await;
    program.says(&json!({"allowed": true, "subject": "ada", "role": "host", "may_kick": true, "turn": false, "new": 1}));
    let grant = may_enter(&program.authority(60), "opaque").await.unwrap();
    assert_eq!((grant.may_kick, grant.may_lock, grant.turn, grant.may_publish), (true, false, false, true));
    assert_eq!((grant.subject, grant.expires), (crate::hub::Subject::new("ada"), None));
    assert_eq!(*program.questions.lock().unwrap(), [json!({"room": "lobby", "token": "opaque"})]);

    program.says(&json!({"allowed": true, "expires_in": 60}));
    assert!(may_enter(&program.authority(60), "opaque").await.unwrap().expires.is_some());
    assert_eq!(program.authority(60).grant(&room("lobby"), None).await, Ok(None));
    assert_eq!(program.asked(), 2, "nobody is asked about nothing");
}

#[tokio::test]
async fn an_answer_is_kept_for_its_room_and_token_alone() {
    let program = Program::start().await;
    program.says(&json!({"allowed": true}));
    let authority = program.authority(60);
    for _ in 0..3 {
        assert!(may_enter(&authority, "a").await.is_ok());
    }
    assert_eq!(program.asked(), 1);
    assert!(may_enter(&authority, "b").await.is_ok());
    let elsewhere = authority.grant(&room("hall"), Some(&"a".parse().unwrap())).await;
    assert!(elsewhere.is_ok());
    assert_eq!(program.asked(), 3);

    let program = Program::start().await;
    program.says(&json!({"allowed": false}));
    let authority = program.authority(0);
    for _ in 0..2 {
        assert!(matches!(may_enter(&authority, "a").await, Err(Denial::Refused(_))));
    }
    assert_eq!(program.asked(), 2, "nothing is kept for no time");
}

#[tokio::test]
async fn nobody_comes_in_because_the_hook_is_down_or_talks_nonsense_and_that_is_not_kept() {
    let program = Program::start().await;
    let authority = program.authority(60);
    for (status, body) in [
        (StatusCode::BAD_GATEWAY, r#"{"allowed":true}"#.to_owned()),
        (StatusCode::BAD_REQUEST, r#"{"allowed":true}"#.to_owned()),
        (StatusCode::FOUND, r#"{"allowed":true}"#.to_owned()),
        (StatusCode::OK, String::new()),
        (StatusCode::OK, "true".to_owned()),
        (StatusCode::OK, r#"{"allowed":"yes"}"#.to_owned()),
        (StatusCode::OK, r#"{"may_kick":true}"#.to_owned()),
        (StatusCode::OK, format!(r#"{{"allowed":true,"more":"{}"}}"#, "x".repeat(64 * 1024))),
    ] {
        *program.answer.lock().unwrap() = (status, body);
        assert_eq!(may_enter(&authority, "a").await, Err(Denial::Unverified), "{status}");
    }
    program.says(&json!({"allowed": true}));
    assert!(may_enter(&authority, "a").await.is_ok());

    let gone = Program { url: "http://127.0.0.1:9/".into(), ..program };
    assert_eq!(may_enter(&gone.authority(60), "a").await, Err(Denial::Unverified));
}

#[tokio::test]
async fn an_answer_outside_the_bounds_is_a_refusal() {
    let program = Program::start().await;
    program.says(&json!({"allowed": true, "subject": "x".repeat(257)}));
    assert!(matches!(may_enter(&program.authority(60), "a").await, Err(Denial::Refused(_))));
}
