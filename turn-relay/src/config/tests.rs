use std::io::Write as _;
use std::net::IpAddr;
use std::path::Path;

use clap::Args as _;

use super::access::DEFAULT_REALM;
use super::addresses::{DEFAULT_LISTEN, DEFAULT_PORTS, Scope, default_relay_addresses};
use super::*;
use crate::credentials::{Hashes, Integrity, MAX_REALM_BYTES, PasswordAlgorithm};
use crate::operation::settings::Config as _;
use crate::relay::Rate;

#[test]
fn without_credentials_nothing_starts() {
    let refused = refusal(&Config { user: vec![], ..usable() });
    assert!(refused.contains("--secret-file") && refused.contains("--user"), "{refused}");
}

#[test]
fn a_secret_handed_in_by_a_program_is_credentials_enough() {
    let config = Config { user: vec![], ..usable() };
    Settings::new(&config, vec![Secret::new("s")]).expect("a secret was given");
}

#[test]
fn every_bad_value_is_refused_with_its_key_and_the_value() {
    let bad = |edit: fn(&mut Config), key: &str, value: &str| {
        let mut config = usable();
        edit(&mut config);
        let refused = refusal(&config);
        assert!(refused.starts_with(key) && refused.contains(value) && !refused.contains('\n'), "{refused}");
    };
    bad(|c| c.listen = vec!["localhost:3478".into()], "listen", "localhost:3478");
    bad(|c| c.listen = vec!["127.0.0.1:9".into(), "127.0.0.1:9".into()], "listen", "127.0.0.1:9");
    bad(|c| c.relay_address = vec!["example.org".into()], "relay_address", "example.org");
    bad(|c| c.relay_address = vec!["0.0.0.0".into()], "relay_address", "0.0.0.0");
    bad(|c| c.relay_address = vec!["192.0.2.1".into()], "relay_address", "192.0.2.1");
    bad(|c| c.external_address = vec!["2001:db8::1".into()], "external_address", "2001:db8::1");
    bad(
        |c| c.external_address = vec!["192.0.2.1".into(), "192.0.2.2".into()],
        "external_address",
        "192.0.2.2",
    );
    bad(|c| c.relay_address = vec!["::ffff:127.0.0.1".into()], "relay_address", "write it as 127.0.0.1");
    bad(|c| c.external_address = vec!["127.0.0.1".into()], "external_address", "127.0.0.1");
    bad(|c| c.external_address = vec!["224.0.0.1".into()], "external_address", "224.0.0.1");
    bad(|c| c.allow_peer = vec!["10.0.0.0/33".into()], "allow_peer", "10.0.0.0/33");
    bad(|c| c.allow_peer = vec!["::ffff:10.0.0.0/104".into()], "allow_peer", "write it as 10.0.0.0/8");
    bad(|c| c.deny_peer = vec!["::ffff:10.0.0.1".into()], "deny_peer", "write it as 10.0.0.1/32");
    bad(|c| c.deny_peer = vec!["10.0.0.1/8".into()], "deny_peer", "10.0.0.0/8");
    bad(|c| c.port_range = Some("60000-50000".into()), "port_range", "60000-50000");
    bad(|c| c.port_range = Some("80-90".into()), "port_range", "80-90");
    bad(|c| c.threads = Some(0), "threads", "0");
    bad(|c| c.nat_discovery = Some("127.0.0.2".into()), "nat_discovery", "127.0.0.2");
    bad(|c| c.nat_discovery = Some("0.0.0.0:1".into()), "nat_discovery", "0.0.0.0:1");
    bad(|c| c.nat_discovery = Some("127.0.0.2:3479".into()), "nat_discovery", "fixed ports");
    bad(|c| c.nat_discovery = Some("[::1]:3479".into()), "nat_discovery", "no wildcard");
    bad(
        |c| {
            c.listen = vec!["127.0.0.1:3478".into()];
            c.nat_discovery = Some("127.0.0.2:3478".into());
        },
        "nat_discovery",
        "must differ",
    );
    bad(|c| c.max_allocations = Some(0), "max_allocations", "0");
    bad(|c| c.max_allocations_per_user = Some(2_000_000), "max_allocations_per_user", "2000000");
    bad(|c| c.max_allocations_per_address = Some(0), "max_allocations_per_address", "0");
    bad(|c| c.max_permissions = Some(5000), "max_permissions", "5000");
    bad(|c| c.max_channels = Some(0), "max_channels", "0");
    bad(|c| c.default_lifetime = Some(30), "default_lifetime", "30");
    bad(|c| c.max_lifetime = Some(90_000), "max_lifetime", "90000");
    bad(|c| c.max_lifetime = Some(300), "default_lifetime", "more than max_lifetime, 300 s");
    bad(|c| c.allocation_bytes_per_second = Some(100), "allocation_bytes_per_second", "100");
    bad(|c| c.user_bytes_per_second = Some(u64::MAX), "user_bytes_per_second", "18446744073709551615");
    bad(
        |c| (c.max_allocations, c.max_allocations_per_user) = (Some(10), Some(20)),
        "max_allocations_per_user",
        "more than max_allocations, 10",
    );
    bad(|c| c.admin = vec!["9641".into()], "admin", "9641");
    bad(|c| c.admin = vec!["unix:admin.sock".into()], "admin", "unix:admin.sock");
    bad(|c| c.admin_token_file = Some("/nonexistent/token".into()), "admin_token_file", "/nonexistent/token");
    bad(|c| c.admin_host = vec!["relay-1:9641".into()], "admin_host", "relay-1:9641");
    bad(|c| c.realm = Some("a\"b".into()), "realm", "a\\\"b");
    bad(|c| c.realm = Some("r".repeat(MAX_REALM_BYTES + 1)), "realm", "rrrr");
    bad(|c| c.secret_file = Some("/nonexistent/secret".into()), "secret_file", "/nonexistent/secret");
    bad(|c| c.user = vec!["a:1".into(), "a:2".into()], "user", "\"a\"");
    bad(|c| c.tls_cert = vec!["/nonexistent/cert".into()], "tls_cert", "1 and 0 files");
    bad(|c| c.max_connections_per_address = Some(0), "max_connections_per_address", "0");
    bad(|c| c.first_message_deadline = Some(61), "first_message_deadline", "61");
}

#[test]
fn a_certificate_brings_the_port_of_turns_and_one_that_cannot_be_used_stops_the_start() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    let files = [made.cert.pem(), made.signing_key.serialize_pem(), other.signing_key.serialize_pem()];
    let [cert, key, wrong] = files.map(|text| file(&text));
    let config = |key: &tempfile::NamedTempFile| Config {
        listen: vec![],
        tls_cert: vec![cert.path().into()],
        tls_key: vec![key.path().into()],
        ..usable()
    };
    let ports: Vec<u16> = settings(&config(&key)).listen.iter().map(SocketAddr::port).collect();
    assert_eq!(ports, [3478, 3478, 5349, 5349]);
    let plain = settings(&Config { listen: vec![], ..usable() }).listen;
    assert_eq!(plain.iter().map(SocketAddr::port).collect::<Vec<_>>(), [3478, 3478]);
    let refused = refusal(&config(&wrong));
    assert!(
        refused.starts_with("tls_cert: ") && refused.contains("cannot be used with the key"),
        "{refused}"
    );
}

#[test]
fn a_password_is_never_repeated() {
    let refused = refusal(&Config { user: vec![":hunter2".into()], ..usable() });
    assert!(!refused.contains("hunter2"), "{refused}");
    assert!(!format!("{:?}", usable()).contains("password"));
}

#[test]
fn user_keys_that_are_none_or_contradict_each_other_are_refused_without_repeating_them() {
    let md5 = "0123456789abcdef0123456789abcdef";
    let sha256 = format!("{md5}{md5}");
    let refused = |keys: &[String]| {
        let refused = refusal(&Config { user_key: keys.to_vec(), ..usable() });
        assert!(refused.starts_with("user_key") && !refused.contains("0123"), "{refused}");
        refused
    };
    for bad in [
        format!("door:{md5}"),
        format!(":md5:{md5}"),
        format!("door:sha1:{md5}"),
        format!("door:md5:{sha256}"),
        format!("door:sha256:{md5}"),
        format!("door:md5:{md5}0"),
        format!("door:md5:0x{}", &md5[..30]),
        format!("door:md5:{}\u{e9}", &md5[..30]),
    ] {
        assert!(refused(&[bad]).contains("neither NAME:md5:"));
    }
    assert!(refused(&[format!("name:md5:{md5}")]).contains("\"name\" is a user with a password too"));
    assert!(refused(&[format!("door:md5:{md5}"), format!("door:md5:{md5}")]).contains("two keys"));
    let apart = refused(&[format!("door:md5:{md5}"), format!("gate:sha256:{sha256}")]);
    assert!(apart.contains("\"door\"") && apart.contains("\"gate\""), "{apart}");
}

#[test]
fn user_keys_are_credentials_enough_and_md5_alone_offers_no_sha256() {
    let md5 = "0123456789abcdef0123456789abcdef";
    let keys = |keys: Vec<String>| settings(&Config { user: vec![], user_key: keys, ..usable() });
    let both = keys(vec![format!("door:md5:{md5}"), format!("door:sha256:{md5}{md5}")]);
    assert_eq!(both.summary()[1], "credentials: 1 static user (realm turn-relay)");
    assert_eq!(both.credentials().features().cookie(), "wAAA");
    let old = keys(vec![format!("door:md5:{}", md5.to_uppercase())]);
    assert!(old.summary()[1].ends_with("without SHA-256: a user_key is there in md5 alone"));
    assert_eq!(old.credentials().features().cookie(), "QAAA");
}

#[test]
fn the_end_of_a_credential_ends_allocations_only_if_asked_to() {
    let secret = || vec![Secret::new("north")];
    let until = |expire_with_credential| {
        let config = Config { expire_with_credential, ..usable() };
        let credentials = Settings::new(&config, secret()).expect("good settings").credentials();
        let in_an_hour = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
        let carol = crate::credentials::mint(&Secret::new("north"), "carol", in_an_hour);
        let hashes = Hashes { password: PasswordAlgorithm::Md5, integrity: Integrity::Sha1 };
        let found = credentials.authenticate(&carol.username, hashes, std::time::UNIX_EPOCH, |_| true);
        found.expect("authenticated").until
    };
    assert_eq!((until(None), until(Some(false))), (None, None));
    assert!(until(Some(true)).is_some());
}

#[test]
fn an_empty_secret_file_is_refused() {
    let file = file("# nothing but a comment\n\n");
    let refused = refusal(&Config { secret_file: Some(file.path().to_owned()), ..usable() });
    assert!(refused.starts_with("secret_file") && refused.contains("no secret"), "{refused}");
}

#[test]
fn all_secrets_of_the_file_are_taken() {
    let file = file("one\n# comment\n\n  two  \n");
    let settings = settings(&Config { secret_file: Some(file.path().to_owned()), ..usable() });
    assert_eq!(settings.secrets.len(), 2);
}

#[test]
fn a_listen_address_relays_from_itself_unless_told_otherwise() {
    let ips =
        |settings: &Settings| settings.relay_addresses.iter().map(|address| address.ip).collect::<Vec<_>>();
    let listen = vec!["127.0.0.1:0".to_owned(), "127.0.0.2:0".to_owned(), "127.0.0.1:9".to_owned()];
    let own = settings(&Config { listen: listen.clone(), ..usable() });
    assert_eq!(ips(&own), ["127.0.0.1", "127.0.0.2"].map(|ip| ip.parse::<IpAddr>().expect("an address")));
    let told = settings(&Config { listen, relay_address: vec!["127.0.0.3".into()], ..usable() });
    assert_eq!(ips(&told), ["127.0.0.3".parse::<IpAddr>().expect("an address")]);
}

#[test]
fn loopback_is_a_relay_address_only_where_no_family_has_another() {
    let listen = ["0.0.0.0:3478", "[::]:3478"].map(|text| text.parse().expect("an address"));
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let host = |addresses: &'static [&'static str]| {
        move |wildcard: IpAddr, scope: Scope| {
            let mut addresses = addresses.iter().map(|text| ip(text));
            addresses.find(|ip| {
                ip.is_ipv4() == wildcard.is_ipv4() && ip.is_loopback() == (scope == Scope::Loopback)
            })
        }
    };
    let of = |addresses| default_relay_addresses(&listen, host(addresses));
    assert_eq!(of(&["127.0.0.1", "::1", "2001:db8::1"]), [ip("2001:db8::1")]);
    assert_eq!(of(&["127.0.0.1", "::1", "192.0.2.1"]), [ip("192.0.2.1")]);
    assert_eq!(of(&["127.0.0.1", "192.0.2.1", "2001:db8::1"]), [ip("192.0.2.1"), ip("2001:db8::1")]);
    assert_eq!(of(&["127.0.0.1", "::1"]), [ip("127.0.0.1"), ip("::1")]);
    assert!(of(&[]).is_empty());
}

#[test]
fn an_external_address_belongs_to_the_relay_address_of_its_family() {
    let settings = settings(&Config { external_address: vec!["198.51.100.7".into()], ..usable() });
    assert_eq!(settings.relay_addresses[0].external, Some("198.51.100.7".parse().expect("an address")));
}

#[test]
fn a_single_address_is_a_network_of_one() {
    let settings = settings(&Config { allow_peer: vec!["10.1.2.3".into(), "::1".into()], ..usable() });
    assert_eq!(joined(&settings.allow_peers), "10.1.2.3/32, ::1/128");
}

#[test]
fn token_and_hook_secret_are_one_long_line_and_never_repeated() {
    for bad in ["", "short", "two words that are long enough", "äöüäöüäöüäöüäöüäöüäöü"] {
        let file = file(bad);
        let path = Some(file.path().to_owned());
        let token = refusal(&Config { admin_token_file: path.clone(), ..usable() });
        let hook = Some("https://hooks.example/".to_owned());
        let secret = refusal(&Config { hook_secret_file: path, usage_hook: hook, ..usable() });
        for (key, refused) in [("admin_token_file", token), ("hook_secret_file", secret)] {
            assert!(refused.starts_with(key) && (bad.is_empty() || !refused.contains(bad)), "{refused}");
        }
    }
}

#[test]
fn hook_needs_its_secret_and_its_settings_need_the_hook() {
    let file = file("0123456789abcdef0123456789abcdef\n");
    let (hook, path) = (Some("https://hooks.example/".to_owned()), Some(file.path().to_owned()));
    let refused = refusal(&Config { usage_hook: hook.clone(), ..usable() });
    assert!(refused.starts_with("usage_hook") && refused.contains("hook_secret_file"), "{refused}");
    let refused = refusal(&Config { hook_secret_file: path.clone(), ..usable() });
    assert!(refused.starts_with("hook_secret_file") && refused.contains("usage_hook"), "{refused}");
    let refused = refusal(&Config { usage_interval: Some(60), ..usable() });
    assert!(refused.starts_with("usage_interval") && refused.contains("usage_hook"), "{refused}");
    let with = |usage_interval| {
        let config =
            Config { usage_hook: hook.clone(), hook_secret_file: path.clone(), usage_interval, ..usable() };
        settings(&config).hooks.usage.expect("a hook").interval
    };
    let seconds = |seconds| Some(std::time::Duration::from_secs(seconds));
    assert_eq!([with(None), with(Some(0)), with(Some(60))], [seconds(300), None, seconds(60)]);
    let config =
        Config { usage_hook: hook, hook_secret_file: path, usage_interval: Some(86_401), ..usable() };
    assert!(refusal(&config).starts_with("usage_interval: 86401"));
}

#[test]
fn admin_is_one_address_or_a_list_of_ports_and_sockets() {
    let parse = |text: &str| settings::parse::<Config>(text, Path::new("sample")).expect("loads").admin;
    assert_eq!(parse("admin = \"127.0.0.1:9641\""), ["127.0.0.1:9641"]);
    let both = parse("admin = [\"127.0.0.1:9641\", \"unix:/run/a.sock\"]");
    let settings = settings(&Config { admin: both, ..usable() });
    let port = "127.0.0.1:9641".parse::<SocketAddr>().expect("an address");
    assert_eq!(settings.admin(), [AdminAddress::Tcp(port), AdminAddress::Unix("/run/a.sock".into())]);
}

#[test]
fn the_printed_configuration_loads_and_so_does_every_example_in_it() {
    let name = Path::new("printed");
    let printed: Config = settings::parse(Config::TEMPLATE, name).expect("loads as it is");
    assert_eq!(given(&printed), toml::Table::new(), "it sets nothing by itself");

    let examples = uncommented();
    let config: Config = settings::parse(&examples, name).expect("every example loads");
    let keys = given(&config);
    let flags = Config::augment_args(clap::Command::new("turn-relay"));
    let missing: Vec<_> = flags
        .get_arguments()
        .map(|flag| flag.get_id().as_str())
        .filter(|id| !keys.contains_key(*id))
        .collect();
    assert!(missing.is_empty(), "not explained in turn-relay.toml: {missing:?}");
}

#[test]
fn every_key_that_the_migration_page_names_is_in_the_template() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/MIGRATING.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let config: Config = settings::parse(&uncommented(), Path::new("template")).expect("every example loads");
    let keys = given(&config);
    // Metrics are named there too.
    let is_key = |word: &&str| {
        !word.is_empty()
            && !word.starts_with("turn_relay_")
            && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    let mut named = 0;
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        assert_eq!(cells.len(), 2, "{row}");
        for key in cells[1].split('`').skip(1).step_by(2).filter(is_key) {
            assert!(keys.contains_key(key), "{key} is no key: {row}");
            named += 1;
        }
    }
    assert!(named > 30, "{named} keys");
}

#[test]
fn the_printed_defaults_are_the_real_ones() {
    let printed: Config = settings::parse(&uncommented(), Path::new("printed")).expect("every example loads");
    assert_eq!(printed.listen, DEFAULT_LISTEN);
    assert_eq!(printed.realm.as_deref(), Some(DEFAULT_REALM));
    let rules = Rules::default();
    assert_eq!(printed.max_connections_per_address, Some(rules.per_address));
    assert_eq!(printed.first_message_deadline, Some(rules.first_message.as_secs()));
    assert_eq!(printed.port_range.as_deref(), Some(DEFAULT_PORTS));
    assert_eq!(limits::limits(&printed).expect("good limits"), Limits::default());
}

#[test]
fn nat_discovery_serves_all_four_addresses() {
    let config = Config {
        listen: vec!["127.0.0.1:3478".into(), "127.0.0.2:3478".into()],
        nat_discovery: Some("127.0.0.2:3479".into()),
        ..usable()
    };
    let expected = ["127.0.0.1:3478", "127.0.0.2:3478", "127.0.0.1:3479", "127.0.0.2:3479"];
    assert_eq!(settings(&config).listen, expected.map(|text| text.parse().expect("an address")));
}

#[test]
fn every_limit_of_the_configuration_reaches_the_relay() {
    let rate = |bytes_per_second, packets_per_second| Rate { bytes_per_second, packets_per_second };
    let config = Config {
        max_allocations: Some(1001),
        max_allocations_per_user: Some(102),
        max_allocations_per_minted_user: Some(114),
        max_allocations_per_address: Some(103),
        max_permissions: Some(4),
        max_channels: Some(5),
        default_lifetime: Some(66),
        max_lifetime: Some(77),
        unauthenticated_answers: Some(8),
        allocation_bytes_per_second: Some(9000),
        allocation_packets_per_second: Some(10),
        user_bytes_per_second: Some(0),
        user_packets_per_second: Some(12),
        allocation_new_peers_per_minute: Some(13),
        user_new_peers_per_minute: Some(14),
        max_peer_connections: Some(15),
        max_peer_connections_per_user: Some(116),
        ..usable()
    };
    let expected = Limits {
        allocations: 1001,
        allocations_per_user: 102,
        permissions: 4,
        channels: 5,
        default_lifetime: std::time::Duration::from_secs(66),
        max_lifetime: std::time::Duration::from_secs(77),
        unauthenticated_answers: 8,
        allocations_per_address: 103,
        allocation_rate: rate(9000, 10),
        user_rate: rate(0, 12),
        new_peers_per_minute: 13,
        user_new_peers_per_minute: 14,
        allocations_per_minted_user: 114,
        connections_per_allocation: 15,
        connections_per_user: 116,
    };
    assert_eq!(settings(&config).limits, expected);
}

/// The template with every `# key = value` line brought to life.
fn uncommented() -> String {
    let alive = |line: &'static str| {
        let key = line.strip_prefix("# ")?.split_once(" = ")?.0;
        key.chars().all(|c| c.is_ascii_lowercase() || c == '_').then(|| &line[2..])
    };
    Config::TEMPLATE.lines().filter_map(alive).map(|line| format!("{line}\n")).collect()
}

/// The keys that were given a value.
fn given(config: &Config) -> toml::Table {
    let table = toml::Table::try_from(config).expect("a table");
    table.into_iter().filter(|(_, value)| value.as_array().is_none_or(|list| !list.is_empty())).collect()
}

fn usable() -> Config {
    Config { listen: vec!["127.0.0.1:0".into()], user: vec!["name:password".into()], ..Config::default() }
}

fn settings(config: &Config) -> Settings {
    Settings::new(config, vec![]).expect("good settings")
}

fn refusal(config: &Config) -> String {
    Settings::new(config, vec![]).expect_err("bad settings").to_string()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("writes");
    file
}
