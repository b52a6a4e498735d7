//! Any configuration file of either binary: settings, or one line that says what is wrong.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(mut config) = toml::from_str::<turn_relay::config::Config>(text) {
        // Files are the operator's to name; a fuzzer must not open them.
        config.secret_file = None;
        config.oauth_key_file = None;
        (config.tls_cert, config.tls_key) = (vec![], vec![]);
        if let Err(error) = turn_relay::config::Settings::new(&config, Vec::new()) {
            one_line(&error.to_string());
        }
    }
    if let Ok(mut config) = toml::from_str::<signaling::config::Config>(text) {
        (config.turn_secret_file, config.tls_cert, config.tls_key) = (None, None, None);
        if let Err(error) = signaling::config::Settings::try_from(config) {
            one_line(&error.to_string());
        }
    }
});

fn one_line(message: &str) {
    assert!(!message.is_empty() && !message.contains('\n'), "not one line: {message:?}");
}
