//! Who may enter, who operates and who is told, after the configuration was read again.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ED25519};
use serde_json::{Value, json};
use signaling::{Config, Server, Settings};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc, time::timeout};

use super::{
    Client, PATIENCE,
    admission::{self, hello, refusal, token},
    config, http,
    webhook::{self, Program, words},
};

/// A server whose configuration is what was written last.
struct Bench {
    server: Server,
    written: Arc<Mutex<Config>>,
    folder: TempDir,
}

impl Bench {
    fn start(configure: impl FnOnce(&Files<'_>) -> Config) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = configure(&Files(&folder));
        let settings = Settings::try_from(config.clone()).expect("a good configuration");
        let written = Arc::new(Mutex::new(config));
        let source = written.clone();
        let source = Box::new(move || Settings::try_from(source.lock().expect("not poisoned").clone()));
        let server = Server::start_reloadable(settings, None, source).expect("the server starts");
        Self { server, written, folder }
    }

    /// Changes the configuration, reads it again, and gives what changed, or why nothing did.
    async fn reload(&self, change: impl FnOnce(&mut Config, &Files<'_>)) -> Result<Vec<String>, String> {
        change(&mut self.written.lock().expect("not poisoned"), &Files(&self.folder));
        let reloaded = self.server.reloader().reload().await.map_err(|error| error.to_string())?;
        assert_eq!(reloaded.needs_restart, Vec::<&str>::new());
        Ok(reloaded.changed)
    }

    async fn enters(&self, seed: u8, token: &str) -> Client {
        Client::hello(&self.server, "lobby", seed, json!({"token": token})).await
    }

    async fn refuses(&self, token: Option<&str>) {
        let (_, code) = refusal(&self.server, "lobby", &hello(9, token.map(str::to_owned))).await;
        assert_eq!(code, 4207);
    }
}

/// The folder of a bench.
struct Files<'a>(&'a TempDir);

impl Files<'_> {
    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).expect("written");
        path
    }
}

const OTHER_SECRET: &str = "another-secret-of-thirty-two-chars";

fn other_token(more: &Value) -> String {
    admission::signed(more, &Header::default(), &EncodingKey::from_secret(OTHER_SECRET.as_bytes()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_was_taken_out_lets_nobody_in_and_leaves_who_is_there() {
    let bench = Bench::start(|files| Config {
        token_secret_file: Some(files.write("secret", admission::SECRET)),
        ..config()
    });
    let mut ada = bench.enters(1, &token(&json!({}))).await;

    let too_short = bench.reload(|_, files| drop(files.write("secret", "short"))).await;
    assert!(too_short.as_ref().is_err_and(|why| why.starts_with("token_secret_file: ")), "{too_short:?}");
    let both = bench
        .reload(|_, files| drop(files.write("secret", &format!("{OTHER_SECRET}\n{}", admission::SECRET))));
    assert_eq!(both.await.expect("good"), ["token_secret_file: 1 added"]);
    let bob = bench.enters(2, &token(&json!({"sub": "bob"}))).await;
    let other = bench.reload(|_, files| drop(files.write("secret", OTHER_SECRET))).await;
    assert_eq!(other.expect("good"), ["token_secret_file: 1 removed"]);

    bench.refuses(Some(&token(&json!({})))).await;
    let mut eve = bench.enters(3, &other_token(&json!({"sub": "eve"}))).await;
    // A further token counts by what holds now.
    for (shown, answer) in [(token(&json!({})), "error"), (other_token(&json!({})), "granted")] {
        ada.send_raw(&json!({"type": "token", "seq": 0, "ack": 0, "token": shown}).to_string()).await;
        ada.until(answer).await;
    }
    // Who is in stays, and comes back without showing anything.
    let bob = Client::hello(&bench.server, "lobby", 2, bob.resumption()).await;
    assert_eq!(bob.welcome["outcome"], "resumed");
    ada.signal(&eve.peer(), json!({"sdp": "still here"})).await;
    assert_eq!(eve.until("signal").await["from"], ada.peer());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_set_in_a_file_is_read_again_and_one_that_is_none_changes_nothing() {
    let keys = [0, 1].map(|_| KeyPair::generate_for(&PKCS_ED25519).expect("a key"));
    let sets = keys.each_ref().map(|key| {
        let x = URL_SAFE_NO_PAD.encode(key.public_key_raw());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "x": x}]}).to_string()
    });
    let [old, new] = keys.each_ref().map(|key| {
        let key = EncodingKey::from_ed_der(&key.serialize_der());
        admission::signed(&json!({"aud": "here"}), &Header::new(Algorithm::EdDSA), &key)
    });
    let path =
        |files: &Files<'_>, set: &str| Some(files.write("keys", set).to_str().expect("UTF-8").to_owned());
    let bench = Bench::start(|files| Config {
        token_keys: path(files, &sets[0]),
        token_audience: vec!["here".into()],
        ..config()
    });
    bench.enters(1, &old).await;
    bench.refuses(Some(&new)).await;
    let broken = bench.reload(|_, files| drop(files.write("keys", "{}"))).await;
    assert!(broken.as_ref().is_err_and(|why| why.starts_with("token_keys: it is no JSON")), "{broken:?}");
    bench.enters(1, &old).await;
    let changed = bench.reload(|_, files| drop(files.write("keys", &sets[1]))).await;
    assert_eq!(changed.expect("good"), ["token_keys: other keys"]);
    bench.enters(1, &new).await;
    bench.refuses(Some(&old)).await;
    let audience = bench.reload(|config, _| config.token_audience = vec!["there".into()]).await;
    assert_eq!(audience.expect("good"), ["token_audience +there -here"]);
    bench.refuses(Some(&new)).await;
}

/// A program that lets in whoever shows `its` token.
async fn gatekeeper(its: &'static str) -> String {
    let answer =
        move |Json(question): Json<Value>| async move { Json(json!({"allowed": question["token"] == its})) };
    serve(Router::new().route("/", post(answer))).await
}

/// Where it is served.
async fn serve(routes: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_nobody_who_is_asked_to_a_hook_to_another_and_to_a_secret() {
    let bench = Bench::start(|_| config());
    let mut early = Client::join(&bench.server, "lobby", 1).await;
    let urls = [gatekeeper("one").await, gatekeeper("two").await];
    let asked = bench.reload(|config, files| {
        config.auth_hook = Some(urls[0].clone());
        config.auth_hook_secret_file = Some(files.write("hook", OTHER_SECRET));
        config.auth_hook_cache_seconds = Some(3600);
    });
    assert_eq!(asked.await.expect("good"), ["who enters: with a token that the hook knows"]);
    bench.refuses(None).await;
    bench.enters(2, "one").await;
    let other = bench.reload(|config, _| config.auth_hook = Some(urls[1].clone())).await;
    assert_eq!(other.expect("good"), ["auth_hook, its secret or its cache"]);
    // What the first one said is forgotten.
    bench.refuses(Some("one")).await;
    bench.enters(2, "two").await;

    let signed = bench.reload(|config, files| {
        (config.auth_hook, config.auth_hook_secret_file) = (None, None);
        config.token_secret_file = Some(files.write("secret", admission::SECRET));
        config.identity = Some("reject".into());
    });
    let tokens = "who enters: with a token that was signed with the secret";
    assert_eq!(signed.await.expect("good"), [tokens, "identity"]);
    let mut ada = bench.enters(3, &token(&json!({}))).await;
    let (_, code) = refusal(&bench.server, "lobby", &hello(4, Some(token(&json!({}))))).await;
    assert_eq!(code, 4211, "one device of a user is in");
    early.signal(&ada.peer(), json!({"sdp": "still here"})).await;
    assert_eq!(ada.until("signal").await["from"], early.peer());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_webhook_comes_moves_with_what_waits_for_it_and_goes() {
    let bench = Bench::start(|_| config());
    let _first = Client::join(&bench.server, "before", 1).await;
    // The first one is down, and what it did not take goes to the one after it.
    let mut down = Program::start(vec![StatusCode::SERVICE_UNAVAILABLE; 100]).await;
    let mut up = Program::start(Vec::new()).await;
    let told = bench.reload(|config, files| {
        config.webhook = Some(down.url.clone());
        config.webhook_secret_file = Some(files.write("hook", webhook::SECRET));
    });
    assert_eq!(told.await.expect("good"), ["webhook or webhook_secret_file"]);
    let _second = Client::join(&bench.server, "during", 2).await;
    let batch = down.next().await;
    assert_eq!(words(&batch), ["room_started", "peer_joined"]);
    assert_eq!(batch["events"][0]["room"], "during");
    bench.reload(|config, _| config.webhook = Some(up.url.clone())).await.expect("good");
    assert_eq!(up.next().await, batch);

    bench
        .reload(|config, _| (config.webhook, config.webhook_secret_file) = (None, None))
        .await
        .expect("good");
    let _third = Client::join(&bench.server, "after", 3).await;
    bench
        .reload(|config, files| {
            config.webhook = Some(up.url.clone());
            config.webhook_secret_file = Some(files.write("hook", webhook::SECRET));
        })
        .await
        .expect("good");
    let _fourth = Client::join(&bench.server, "again", 4).await;
    assert_eq!(up.next().await["events"][0]["room"], "again", "nothing of the time between is told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operators_token_and_the_names_of_the_port_change() {
    let bench = Bench::start(|files| Config {
        admin_token_file: Some(files.write("token", "a-token-of-the-operator-for-now")),
        ..config()
    });
    let ask = async |host: &str, token: &str| {
        let request = format!(
            "GET /v1/numbers HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        let answer = http(bench.server.admin().expect("a port"), &request).await;
        answer.split(' ').nth(1).expect("a status").to_owned()
    };
    let (old, new) = ("a-token-of-the-operator-for-now", "a-token-of-the-operator-from-now");
    assert_eq!(ask("localhost", old).await, "200");
    assert_eq!(ask("admin.example", old).await, "421");
    let changed = bench.reload(|config, files| {
        files.write("token", new);
        config.admin_host = vec!["admin.example".into()];
    });
    assert_eq!(changed.await.expect("good"), ["admin_token_file", "admin_host +admin.example"]);
    assert_eq!(ask("localhost", old).await, "401");
    assert_eq!(ask("admin.example", new).await, "200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_relay_is_taken_by_the_admin_api_and_for_the_time_that_hold_now() {
    let (heard, mut hears) = mpsc::unbounded_channel();
    let revoke = move |headers: HeaderMap, Json(body): Json<Value>| async move {
        let _ = heard.send((headers["authorization"].to_str().expect("text").to_owned(), body));
        StatusCode::OK
    };
    let url = serve(Router::new().route("/v1/revocations", post(revoke))).await;
    let bench = Bench::start(|files| Config {
        no_embedded_relay: None,
        turn_url: vec!["turn:a.example:3478".into()],
        turn_secret_file: Some(files.write("turn", OTHER_SECRET)),
        token_secret_file: Some(files.write("secret", admission::SECRET)),
        ..config()
    });
    let changed = bench.reload(|config, files| {
        config.turn_admin_url = Some(url.clone());
        config.turn_admin_token_file = Some(files.write("turn-token", "a-token-of-the-relays-operator"));
        config.turn_credential_seconds = Some(77);
    });
    let expected = ["turn_admin_url or turn_admin_token_file", "turn_credential_seconds is 77"];
    assert_eq!(changed.await.expect("good"), expected);
    let mut ada = bench.enters(1, &token(&json!({"may_kick": true}))).await;
    let bob = bench.enters(2, &token(&json!({"sub": "bob"}))).await;
    ada.until("peer_joined").await;
    ada.send(json!({"type": "kick", "to": bob.peer()})).await;
    let (authorization, body) = timeout(PATIENCE, hears.recv()).await.expect("in time").expect("it runs");
    assert_eq!(authorization, "Bearer a-token-of-the-relays-operator");
    assert_eq!(body, json!({"user": bob.welcome["session"], "seconds": 77}));
}
