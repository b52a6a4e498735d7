//! The binary: how it starts, how it refuses to, how it stops.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod process;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};

use client::Client;
use process::Running;
use turn_relay::address::Transport;
use turn_relay::credentials::{Secret, mint};

#[test]
fn without_credentials_it_refuses_to_start() {
    refuses(&["--listen", "127.0.0.1:0"], &["--secret-file", "--user"]);
}

#[test]
fn a_bad_network_is_refused_by_name() {
    refuses(&["--user", "a:b", "--deny-peer", "10.0.0.0/99"], &["deny_peer", "10.0.0.0/99"]);
}

#[test]
fn an_unknown_key_is_refused_with_file_line_and_key() {
    let file = file("realm = \"r\"\nlissten = [\"127.0.0.1:0\"]\n");
    let path = file.path().to_str().unwrap();
    refuses(&["--config", path], &[&format!("{path}:2"), "`lissten`"]);
}

#[test]
fn an_unknown_flag_is_refused_by_name() {
    refuses(&["--alow-peer", "10.0.0.0/8"], &["--alow-peer"]);
}

#[test]
fn a_certificate_that_cannot_be_used_is_refused_by_its_file() {
    let made = client::tls::Files::generate();
    let (cert, key) = (made.cert.to_str().unwrap(), made.key.to_str().unwrap());
    refuses(&["--user", "a:b", "--tls-cert", key, "--tls-key", cert], &["tls_cert", key, "no certificate"]);
    refuses(&["--user", "a:b", "--tls-cert", cert], &["tls_key"]);
    let other = client::tls::Files::generate();
    let wrong = ["--user", "a:b", "--tls-cert", cert, "--tls-key", other.key.to_str().unwrap()];
    refuses(&wrong, &[cert, "cannot be used with the key"]);
}

#[test]
fn a_port_that_another_copy_holds_is_refused() {
    let running = Running::start(&["--listen", "127.0.0.1:0"], &[]);
    let address = running.serving.to_string();
    refuses(&["--user", "a:b", "--listen", &address], &[&address, "taken", "--listen"]);
}

#[test]
fn a_taken_admin_port_is_refused() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    refuses(
        &["--user", "a:b", "--listen", "127.0.0.1:0", "--admin", &address],
        &[&address, "taken", "--admin"],
    );
}

#[test]
fn the_layers_win_over_each_other_in_order() {
    let file = file(
        "realm = \"file\"\nlisten = [\"127.0.0.1:0\"]\nport_range = \"50000-50009\"\nuser = [\"a:b\"]\n",
    );
    let path = file.path().to_str().unwrap();
    let environment = [("TURN_RELAY_REALM", "environment"), ("TURN_RELAY_CONFIG", path)];
    let check = |flags: &[&str]| text(&run(&[&["--check"], flags].concat(), &environment).stdout);
    let without_flag = check(&[]);
    assert!(
        without_flag.contains("realm environment") && without_flag.contains("50000-50009"),
        "{without_flag}"
    );
    let with_flag = check(&["--realm", "flag"]);
    assert!(with_flag.contains("realm flag") && with_flag.contains("50000-50009"), "{with_flag}");
}

#[test]
fn the_printed_configuration_is_accepted() {
    let printed = run(&["--print-config"], &[]);
    assert!(printed.status.success());
    let file = file(&text(&printed.stdout));
    let checked = run(&["--config", file.path().to_str().unwrap(), "--user", "a:b", "--check"], &[]);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
}

#[test]
fn help_shows_every_flag_and_keeps_passwords_to_itself() {
    let help = text(&run(&["--help"], &[("TURN_RELAY_USER", "name:hunter2")]).stdout);
    for flag in [
        "--config",
        "--listen",
        "--relay-address",
        "--external-address",
        "--realm",
        "--user",
        "--secret-file",
        "--allow-peer",
        "--deny-peer",
        "--port-range",
        "--threads",
        "--admin",
        "--tls-cert",
        "--tls-key",
        "--max-connections-per-address",
        "--first-message-deadline",
        "--check",
        "--print-config",
    ] {
        assert!(help.contains(flag), "{flag} is not explained");
    }
    assert!(help.contains("Examples:") && !help.contains("hunter2"), "{help}");
}

#[test]
fn it_serves_says_so_and_stops_cleanly_when_asked() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut running = Running::start(&["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], &[]);
        let mut client = Client::connect(Transport::Udp, running.serving, "user", "password");
        client.allocate();
        // The answer is sent before it is counted.
        running.wait_for("allocation started");
        let metrics = get(running.admin.unwrap(), "/metrics");
        let standing = "turn_relay_allocations{transport=\"udp\",family=\"ipv4\"} 1";
        assert!(metrics.contains(standing), "{metrics}");
        assert!(get(running.admin.unwrap(), "/readyz").contains("200 OK"));
        // SIGTERM waits for the allocation; SIGINT does not.
        if signal == libc::SIGTERM {
            assert!(client.release().is_success());
        }
        assert_eq!(running.stop(signal), Some(0));
    }
}

#[test]
fn scrape_has_the_histograms_of_an_allocation_that_began_and_ended() {
    let mut running = Running::start(&["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], &[]);
    let mut client = Client::connect(Transport::Udp, running.serving, "user", "password");
    client.allocate();
    assert_eq!(client.allocate_with(&[]).error(), Some(437));
    assert!(client.release().is_success());
    // The answer is sent before it is counted, and this comes last.
    running.wait_for("allocation ended");
    let metrics = get(running.admin.unwrap(), "/metrics");
    for (name, count) in [("allocation_duration_seconds", 1), ("allocate_answer_seconds", 2)] {
        assert!(metrics.contains(&format!("# TYPE turn_relay_{name} histogram\n")), "{metrics}");
        let value = |line: &str| -> f64 {
            let rest = metrics.split(&format!("\nturn_relay_{name}_{line} ")).nth(1).expect(line);
            rest.lines().next().unwrap().parse().unwrap()
        };
        assert_eq!((value("count"), value("bucket{le=\"+Inf\"}")), (f64::from(count), f64::from(count)));
        assert!(value("sum") > 0.0, "{metrics}");
        let bucket = format!("\nturn_relay_{name}_bucket{{le=\"");
        let buckets: Vec<(f64, u32)> = metrics
            .split(&bucket)
            .skip(1)
            .map(|rest| rest.lines().next().unwrap().split_once("\"} ").unwrap())
            .map(|(bound, count)| (bound.parse().unwrap_or(f64::INFINITY), count.parse().unwrap()))
            .collect();
        assert!(buckets.is_sorted(), "bounds and cumulative counts rise: {buckets:?}");
        assert_eq!(buckets.len(), 12);
    }
}

#[test]
fn logs_hold_no_address_of_a_client_and_no_password() {
    let mut running = Running::start(&["--listen", "127.0.0.1:0", "--log-format", "json"], &[]);
    let mut client = Client::connect(Transport::Udp, running.serving, "user", "password");
    let relayed = client.allocate();
    client.release();
    let mut wrong = Client::connect(Transport::Udp, running.serving, "user", "wrong");
    assert_eq!(wrong.allocate_with(&[]).error(), Some(401));
    assert_eq!(running.stop(libc::SIGTERM), Some(0));
    let log = running.log();
    for line in ["allocation started", "allocation ended", "wrong password for a static user"] {
        assert!(log.contains(line), "{line} is not in\n{log}");
    }
    for hidden in [client.local_addr().port(), relayed.port(), wrong.local_addr().port()] {
        assert!(!log.contains(&format!(":{hidden}")), "{hidden} is in\n{log}");
    }
    assert!(!log.contains("\"password\"") && !log.contains("user:password"), "{log}");
}

/// Whoever is let in by a name of its own choice must not write our log.
#[test]
fn name_of_a_user_stays_in_its_field_of_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "north").unwrap();
    let flags = ["--listen", "127.0.0.1:0", "--secret-file", secret.to_str().unwrap()];
    let mut running = Running::start(&flags, &[]);
    let expires = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    let evil = "%n\"; DROP\n\x1b[31mERROR reason=forged\r<b>";
    let minted = mint(&Secret::new("north"), evil, expires);
    let mut client = Client::connect(Transport::Udp, running.serving, &minted.username, &minted.password);
    client.allocate();
    assert!(client.release().is_success());
    assert_eq!(running.stop(libc::SIGTERM), Some(0));
    let log = running.log();
    let named: Vec<&str> = log.lines().filter(|line| line.contains("DROP")).collect();
    assert_eq!(named.len(), 2, "start and end in\n{log}");
    assert!(named.iter().all(|line| line.contains("reason=forged") && line.contains("<b>")), "{log}");
    assert!(!log.contains("\x1b[31m"), "{log}");
}

#[test]
fn allocation_is_logged_at_start_and_end_under_one_id_with_what_flowed_and_why_it_ended() {
    let flags = ["--listen", "127.0.0.1:0", "--log-format", "json", "--allow-peer", "127.0.0.0/8"];
    let mut running = Running::start(&flags, &[]);
    let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut client = Client::connect(Transport::Tcp, running.serving, "user", "password");
    let relayed = client.allocate();
    let to = peer.local_addr().unwrap();
    assert!(client.permit(to).is_success());
    client.send_indication(to, b"hello");
    client.send_indication(to, b"again");
    let mut buffer = [0; 100];
    for _ in 0..2 {
        assert_eq!(peer.recv_from(&mut buffer).unwrap(), (5, relayed));
    }
    peer.send_to(b"yes", relayed).unwrap();
    client.receive();
    assert!(client.release().is_success());
    assert_eq!(running.stop(libc::SIGTERM), Some(0));

    let log = running.log();
    let line = |message: &str| -> serde_json::Value {
        let mut lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.find(|line| line["message"] == message).unwrap_or_else(|| panic!("{message} is not in\n{log}"))
    };
    let (started, ended) = (line("allocation started"), line("allocation ended"));
    assert_eq!(started["allocation"].as_str().unwrap().len(), 16);
    assert_eq!(started["lifetime_s"], 600);
    for line in [&started, &ended] {
        assert_eq!(line["allocation"], started["allocation"]);
        assert_eq!(
            (&line["user"], &line["transport"], &line["family"]),
            (&"user".into(), &"tcp".into(), &"ipv4".into())
        );
        assert!(line.get("client").is_none() && line.get("relayed").is_none(), "{line}");
    }
    assert_eq!((&ended["to_peer_bytes"], &ended["to_peer_packets"]), (&10.into(), &2.into()));
    assert_eq!((&ended["to_client_bytes"], &ended["to_client_packets"]), (&3.into(), &1.into()));
    assert_eq!(ended["reason"], "released");
    assert!(ended["seconds"].is_u64());
}

#[test]
fn addresses_are_in_the_lines_about_allocations_where_they_were_asked_for() {
    let mut running = Running::start(&["--listen", "127.0.0.1:0", "--log-addresses"], &[]);
    let mut client = Client::connect(Transport::Udp, running.serving, "user", "password");
    let relayed = client.allocate();
    client.release();
    assert_eq!(running.stop(libc::SIGTERM), Some(0));
    let log = running.log();
    for message in ["allocation started", "allocation ended"] {
        let line = log.lines().find(|line| line.contains(message)).unwrap();
        for address in [client.local_addr(), relayed] {
            assert!(line.contains(&address.to_string()), "{address} is not in\n{line}");
        }
    }
}

#[test]
fn out_of_descriptors_it_answers_508_and_recovers() {
    // Some 20 descriptors are its own; what remains is enough for a few allocations only.
    let mut running = Running::start(&["--listen", "127.0.0.1:0", "--threads", "1"], &["-n", "40"]);
    let mut clients = vec![];
    let refused = loop {
        let mut client = Client::connect(Transport::Udp, running.serving, "user", "password");
        let answer = client.allocate_with(&[]);
        match answer.error() {
            None => clients.push(client),
            Some(code) => break (client, code),
        }
        assert!(clients.len() < 40, "the limit was never met");
    };
    let (mut client, code) = refused;
    assert_eq!(code, 508);
    // A connection that cannot be accepted now is accepted once a descriptor is free.
    let mut waiting = Client::connect(Transport::Tcp, running.serving, "user", "password");
    running.wait_for("cannot accept connections for a moment");
    for mut freed in clients.drain(..2) {
        assert!(freed.release().is_success());
    }
    assert!(waiting.request(client::BINDING, &[]).is_success());
    client.allocate();
}

/// Asserts exit code 2 and one line on standard error that names each of `mentioned`.
fn refuses(flags: &[&str], mentioned: &[&str]) {
    let output = run(flags, &[]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.starts_with("error: ") && errors.trim_end().lines().count() == 1, "{errors}");
    for word in mentioned {
        assert!(errors.contains(word), "{word} is not in {errors}");
    }
}

fn run(flags: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_turn-relay"));
    command.args(flags).envs(environment.iter().copied()).output().unwrap()
}

fn get(admin: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(admin).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn file(content: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
