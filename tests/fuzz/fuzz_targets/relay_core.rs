//! The relay core, two workers of it, driven by bytes as clients, peers and time might drive it, freely or in step with a reference model;
//! requests are signed for the fuzzer.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| turn_relay::relay::drive(script));
