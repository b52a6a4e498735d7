//! Public keys: which of them count, and how often they are read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::{Router, routing::get};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use tokio::net::TcpListener;

use super::super::key_set::BETWEEN;
use super::super::{KeySet, KeySource};
use super::*;

/// A key that signs, and what is published of it.
struct Signer {
    algorithm: Algorithm,
    id: &'static str,
    key: EncodingKey,
    public: Value,
}

impl Signer {
    fn new(id: &'static str, algorithm: Algorithm) -> Self {
        let of_key = |key: EncodingKey| {
            let public = serde_json::to_value(Jwk::from_encoding_key(&key, algorithm).unwrap()).unwrap();
            (key, public)
        };
        let (key, mut public) = if algorithm == Algorithm::ES256 {
            let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
            of_key(EncodingKey::from_ec_der(&pair.serialize_der()))
        } else if algorithm == Algorithm::EdDSA {
            let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
            let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
            let public = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "x": x});
            (EncodingKey::from_ed_der(&pair.serialize_der()), public)
        } else {
            let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
            // PKCS #1 is what PKCS #8 wraps in 26 bytes.
            of_key(EncodingKey::from_rsa_der(&pair.serialize_der()[26..]))
        };
        public["kid"] = id.into();
        Self { algorithm, id, key, public }
    }

    fn token(&self) -> AccessToken {
        let header = Header { kid: Some(self.id.into()), ..Header::new(self.algorithm) };
        signed(&header, &claims(&json!({"aud": "here"})), &self.key)
    }
}

fn set_of(keys: &[&Value]) -> String {
    json!({"keys": keys}).to_string()
}

/// Asks with a file that holds this set.
async fn ask_keys(set: &str, token: &AccessToken) -> Result<Grant, Denial> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), set).unwrap();
    ask(of_set(KeySet::new(KeySource::File(file.path().into())).unwrap()), token).await
}

fn of_set(set: KeySet) -> TokenAuthority {
    TokenAuthority { audience: vec!["here".into()], ..authority(Keys::Set(set)) }
}

#[tokio::test]
async fn tokens_of_every_kind_of_public_key_are_verified() {
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let (signer, other) = (Signer::new("a", algorithm), Signer::new("a", algorithm));
        let set = set_of(&[&signer.public]);
        assert!(ask_keys(&set, &signer.token()).await.is_ok(), "{algorithm:?}");
        let verdict = ask_keys(&set, &other.token()).await;
        assert!(matches!(verdict, Err(Denial::Refused(_))), "{algorithm:?}: {verdict:?}");
    }
}

#[tokio::test]
async fn a_public_key_is_no_secret_and_a_secret_is_no_public_key() {
    let signer = Signer::new("a", Algorithm::EdDSA);
    // What everybody can read, used as if it were the secret of HS256: in each form that it might be taken for one.
    let x = signer.public["x"].as_str().unwrap();
    let raw = URL_SAFE_NO_PAD.decode(x).unwrap();
    let set = set_of(&[&signer.public]);
    for secret in [raw.as_slice(), x.as_bytes(), set.as_bytes(), signer.public.to_string().as_bytes()] {
        for kid in [Some("a".to_owned()), None] {
            let header = Header { kid, ..Header::new(Algorithm::HS256) };
            let token = signed(&header, &claims(&json!({"aud": "here"})), &EncodingKey::from_secret(secret));
            let verdict = ask_keys(&set, &token).await;
            assert!(matches!(verdict, Err(Denial::Refused(_))), "{verdict:?}");
        }
    }
    // A set that gives a secret away.
    let k = URL_SAFE_NO_PAD.encode(SECRET);
    let leak = json!({"kty": "oct", "alg": "HS256", "kid": "s", "k": k});
    let header = Header { kid: Some("s".into()), ..Header::new(Algorithm::HS256) };
    let token =
        signed(&header, &claims(&json!({"aud": "here"})), &EncodingKey::from_secret(SECRET.as_bytes()));
    let verdict = ask_keys(&set_of(&[&signer.public, &leak]), &token).await;
    assert!(matches!(verdict, Err(Denial::Refused(_))), "{verdict:?}");
    // Configured with a secret, a token of a public key counts for nothing either.
    assert!(matches!(ask(of_secret(), &signer.token()).await, Err(Denial::Refused(_))));
}

#[tokio::test]
async fn a_key_for_something_else_does_not_count() {
    let signer = Signer::new("a", Algorithm::RS256);
    let mut encryption = signer.public.clone();
    encryption["use"] = "enc".into();
    let mut other = signer.public.clone();
    other["alg"] = "RS512".into();
    for public in [encryption, other] {
        assert_eq!(ask_keys(&set_of(&[&public]), &signer.token()).await, Err(Denial::Unverified));
    }
}

#[tokio::test]
async fn without_a_key_id_the_key_has_to_be_the_only_one() {
    let (a, b) = (Signer::new("a", Algorithm::ES256), Signer::new("b", Algorithm::ES256));
    let nameless = signed(&Header::new(Algorithm::ES256), &claims(&json!({"aud": "here"})), &a.key);
    assert!(ask_keys(&set_of(&[&a.public]), &nameless).await.is_ok());
    let verdict = ask_keys(&set_of(&[&a.public, &b.public]), &nameless).await;
    assert!(matches!(verdict, Err(Denial::Refused(_))), "{verdict:?}");
    assert!(ask_keys(&set_of(&[&a.public, &b.public]), &b.token()).await.is_ok());
}

/// A web server that answers what the test says, and counts.
struct Provider {
    url: String,
    asked: Arc<AtomicUsize>,
    answer: Arc<std::sync::Mutex<Option<String>>>,
}

impl Provider {
    async fn start(answer: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let (asked, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(std::sync::Mutex::new(Some(answer))));
        let (count, said) = (asked.clone(), answer.clone());
        let keys = move || async move {
            count.fetch_add(1, Ordering::SeqCst);
            said.lock().unwrap().clone().ok_or(axum::http::StatusCode::BAD_GATEWAY)
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/keys", get(keys))).await });
        Self { url, asked, answer }
    }

    fn say(&self, answer: Option<String>) {
        *self.answer.lock().unwrap() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn key_set(&self) -> KeySet {
        KeySet::new(KeySource::Web(self.url.parse().unwrap())).unwrap()
    }
}

#[tokio::test]
async fn a_key_that_is_not_known_has_the_set_read_again_but_not_more_often_than_every_ten_seconds() {
    let (a, b) = (Signer::new("a", Algorithm::EdDSA), Signer::new("b", Algorithm::EdDSA));
    let provider = Provider::start(set_of(&[&a.public])).await;
    let set = provider.key_set();
    let start = Instant::now();
    for _ in 0..3 {
        assert!(set.find(start, Some("a"), a.algorithm).await.is_ok());
    }
    assert_eq!(provider.asked(), 1);

    provider.say(Some(set_of(&[&a.public, &b.public])));
    let soon = start + BETWEEN - Duration::from_millis(1);
    let everybody = (0..50).map(|_| set.find(soon, Some("b"), b.algorithm));
    let verdicts = futures_util::future::join_all(everybody).await;
    assert!(verdicts.iter().all(|verdict| matches!(verdict, Err(Denial::Refused(_)))));
    assert_eq!(provider.asked(), 1);

    let then = start + BETWEEN;
    let everybody = (0..50).map(|_| set.find(then, Some("b"), b.algorithm));
    assert!(futures_util::future::join_all(everybody).await.iter().all(Result::is_ok));
    assert_eq!(provider.asked(), 2);
}

#[tokio::test]
async fn a_key_that_was_withdrawn_counts_no_more_after_the_set_was_read_again() {
    let (a, b) = (Signer::new("a", Algorithm::EdDSA), Signer::new("b", Algorithm::EdDSA));
    let provider = Provider::start(set_of(&[&a.public])).await;
    let set = provider.key_set();
    let start = Instant::now();
    assert!(set.find(start, Some("a"), a.algorithm).await.is_ok());
    provider.say(Some(set_of(&[&b.public])));
    let later = start + Duration::from_secs(600);
    assert!(matches!(set.find(later, Some("a"), a.algorithm).await, Err(Denial::Refused(_))));
}

#[tokio::test]
async fn while_the_provider_is_down_the_keys_of_before_count_for_a_day() {
    let a = Signer::new("a", Algorithm::EdDSA);
    let provider = Provider::start(set_of(&[&a.public])).await;
    let set = provider.key_set();
    let start = Instant::now();
    assert!(set.find(start, Some("a"), a.algorithm).await.is_ok());
    provider.say(None);
    assert!(set.find(start + Duration::from_secs(23 * 3600), Some("a"), a.algorithm).await.is_ok());
    let verdict = set.find(start + Duration::from_secs(23 * 3600 + 60), Some("new"), a.algorithm).await;
    assert!(matches!(verdict, Err(Denial::Unverified)), "nobody knows whether that one is good");
    let verdict = set.find(start + Duration::from_secs(24 * 3600), Some("a"), a.algorithm).await;
    assert!(matches!(verdict, Err(Denial::Unverified)));
}

#[tokio::test]
async fn what_is_no_set_or_too_large_or_not_there_lets_nobody_in() {
    let a = Signer::new("a", Algorithm::EdDSA);
    let padded = json!({"keys": [&a.public], "padding": "x".repeat(256 * 1024)}).to_string();
    for answer in [None, Some(String::new()), Some("{}".into()), Some(r#"{"keys":[]}"#.into()), Some(padded)]
    {
        let provider = Provider::start(String::new()).await;
        provider.say(answer);
        let verdict = provider.key_set().find(Instant::now(), Some("a"), a.algorithm).await;
        assert!(matches!(verdict, Err(Denial::Unverified)));
        assert_eq!(provider.asked(), 1);
    }
    let gone = KeySet::new(KeySource::File("/nonexistent/keys.json".into())).unwrap();
    assert!(matches!(gone.find(Instant::now(), Some("a"), a.algorithm).await, Err(Denial::Unverified)));
}
