//! Claims and signatures with a shared secret.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;

use super::*;
use crate::hub::Subject;

fn refused(verdict: &Result<Grant, Denial>) -> bool {
    matches!(verdict, Err(Denial::Refused(_)))
}

#[tokio::test]
async fn where_nobody_is_asked_everybody_may_enter_and_otherwise_a_token_is_needed() {
    assert_eq!(Authority::Open.grant(&room("lobby"), None).await, Ok(Some(Grant::default())));
    assert_eq!(Authority::Tokens(Box::new(of_secret())).grant(&room("lobby"), None).await, Ok(None));
}

#[tokio::test]
async fn a_token_says_what_its_bearer_is_and_may_do() {
    let more = json!({"role": "host", "name": "Ada\u{7} L", "may_publish": false, "may_kick": true, "may_lock": true, "turn": false, "identity": "reject"});
    let before = Instant::now();
    let mut grant = ask(of_secret(), &with_secret(&claims(&more))).await.unwrap();
    let rest = grant.expires.take().unwrap() - before;
    assert!(
        rest > Duration::from_secs(620) && rest <= Duration::from_secs(640),
        "{rest:?}: exp and the leeway"
    );
    let expected = Grant {
        subject: Subject::new("ada"),
        role: "host".parse().ok(),
        name: "Ada L".parse().ok(),
        expires: None,
        may_publish: false,
        may_kick: true,
        may_lock: true,
        turn: false,
        identity: Identity::Reject,
    };
    assert_eq!(grant, expected);

    let grant = ask(of_secret(), &with_secret(&claims(&json!({})))).await.unwrap();
    assert_eq!(Grant { expires: None, subject: None, ..grant }, Grant::default());
    let once = TokenAuthority { identity: Identity::Replace, ..of_secret() };
    assert_eq!(ask(once, &with_secret(&claims(&json!({})))).await.unwrap().identity, Identity::Replace);
}

#[tokio::test]
async fn a_token_opens_the_rooms_that_it_names() {
    for (pattern, opens) in [
        (json!("lobby"), true),
        (json!("lob*"), true),
        (json!("*"), true),
        (json!(["hall", "lobby"]), true),
        (json!("lobb"), false),
        (json!("lobby2"), false),
        (json!("*y"), false),
        (json!(["hall"]), false),
        (json!([]), false),
        (json!(7), false),
        (json!(null), false),
    ] {
        let verdict = ask(of_secret(), &with_secret(&claims(&json!({"room": pattern})))).await;
        assert_eq!(verdict.is_ok(), opens, "{pattern}: {verdict:?}");
        assert!(opens || refused(&verdict));
    }
    let mut without = claims(&json!({}));
    without.as_object_mut().unwrap().remove("room");
    assert!(refused(&ask(of_secret(), &with_secret(&without)).await));
}

#[tokio::test]
async fn times_count_with_thirty_seconds_of_leeway() {
    let verdict = |more: Value| async move { ask(of_secret(), &with_secret(&claims(&more))).await };
    assert!(verdict(json!({"exp": after(-10)})).await.is_ok());
    assert_eq!(verdict(json!({"exp": after(-40)})).await, Err(Denial::Expired));
    assert!(verdict(json!({"nbf": after(10)})).await.is_ok());
    assert!(refused(&verdict(json!({"nbf": after(60)})).await));
    assert!(verdict(json!({"exp": 1_u64 << 53})).await.is_ok(), "the end of time is within bounds");
    for exp in [json!(null), json!("soon"), json!(-1)] {
        let verdict = verdict(json!({"exp": exp})).await;
        assert!(verdict.is_err(), "{exp}: {verdict:?}");
    }
}

#[tokio::test]
async fn a_signature_that_is_missing_wrong_or_of_another_kind_opens_nothing() {
    let good = claims(&json!({}));
    let encoded = |value: &Value| BASE64URL.encode(value.to_string());
    let unsigned = format!("{}.{}.", encoded(&json!({"alg": "none", "typ": "JWT"})), encoded(&good));
    let with = |algorithm, secret: &str| {
        signed(&Header::new(algorithm), &good, &EncodingKey::from_secret(secret.as_bytes()))
            .as_str()
            .to_owned()
    };
    let right = with(Algorithm::HS256, SECRET);
    let (_, signature) = right.rsplit_once('.').unwrap();
    let other_claims = encoded(&claims(&json!({"room": "*"})));
    for bad in [
        unsigned.clone(),
        unsigned.replace("none", "None"),
        format!("{}.{}.{signature}", encoded(&json!({"alg": "HS256"})), other_claims),
        format!("{}.{}.{signature}", encoded(&json!({"alg": "none"})), encoded(&good)),
        with(Algorithm::HS256, "another secret of thirty-two byte"),
        with(Algorithm::HS384, SECRET),
        with(Algorithm::HS512, SECRET),
        right[..right.len() - 1].to_owned(),
        right.rsplit_once('.').unwrap().0.to_owned(),
        "x".repeat(8192),
        "..".to_owned(),
        ".".repeat(8192),
    ] {
        let verdict = ask(of_secret(), &bad.parse().unwrap()).await;
        assert!(refused(&verdict), "{bad}: {verdict:?}");
    }
    assert!(ask(of_secret(), &right.parse().unwrap()).await.is_ok());
}

#[tokio::test]
async fn a_critical_header_that_nobody_knows_is_refused() {
    let header = Header { crit: Some(vec!["b64".into()]), ..Header::new(Algorithm::HS256) };
    let token = signed(&header, &claims(&json!({})), &EncodingKey::from_secret(SECRET.as_bytes()));
    assert!(refused(&ask(of_secret(), &token).await));
}

#[tokio::test]
async fn audience_and_issuer_are_asked_for_where_they_are_configured() {
    let strict = || TokenAuthority {
        audience: vec!["here".into(), "there".into()],
        issuer: Some("us".into()),
        ..of_secret()
    };
    for (more, good) in [
        (json!({"aud": "here", "iss": "us"}), true),
        (json!({"aud": ["else", "there"], "iss": "us"}), true),
        (json!({"aud": "else", "iss": "us"}), false),
        (json!({"aud": "here", "iss": "them"}), false),
        (json!({"aud": "here"}), false),
        (json!({"iss": "us"}), false),
    ] {
        let verdict = ask(strict(), &with_secret(&claims(&more))).await;
        assert_eq!(verdict.is_ok(), good, "{more}: {verdict:?}");
    }
    // Made for somebody, and nobody said that this is us.
    assert!(refused(&ask(of_secret(), &with_secret(&claims(&json!({"aud": "here"})))).await));
}

#[tokio::test]
async fn a_secret_is_replaced_without_a_gap() {
    let secrets = ["a new secret of thirty-two bytes!", SECRET]
        .map(|secret| DecodingKey::from_secret(secret.as_bytes()));
    let both = || authority(Keys::Secrets(secrets.to_vec()));
    assert!(ask(both(), &with_secret(&claims(&json!({})))).await.is_ok());
    assert_eq!(ask(both(), &with_secret(&claims(&json!({"exp": after(-60)})))).await, Err(Denial::Expired));
}

#[tokio::test]
async fn a_subject_is_bounded_and_a_name_is_cut() {
    let verdict = |more: Value| async move { ask(of_secret(), &with_secret(&claims(&more))).await };
    assert!(refused(&verdict(json!({"sub": "x".repeat(257)})).await));
    assert!(refused(&verdict(json!({"sub": ""})).await));
    let grant = verdict(json!({"name": "한".repeat(100)})).await.unwrap();
    assert_eq!(grant.name.unwrap().as_str(), "한".repeat(64));
    assert!(refused(&verdict(json!({"role": "<b>"})).await));
}
