//! Tells the supervisor that the server is alive, for as long as every worker's loop turns.
//!
//! Each round asks every worker, and only the answers of all of them are passed on. A worker that is stuck, in a loop or in a
//! system call, keeps the rest of the process from looking alive, and the supervisor restarts it.

use std::time::Duration;

use super::Control;
use crate::operation::supervisor;

/// Answers the supervisor's watchdog until the process ends, on a thread of its own. Does nothing without one.
pub fn guard(control: Control) {
    let Some(period) = supervisor::watchdog() else { return };
    let rounds = move || {
        // A third of the period leaves room for one late round.
        let pause = period / 3;
        loop {
            if control.workers_answer(pause) {
                supervisor::alive();
            } else {
                tracing::error!("a worker does not answer: the watchdog will not be told that all is well");
            }
            std::thread::park_timeout(pause);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("watchdog".to_owned()).spawn(rounds) {
        tracing::error!("cannot start the watchdog thread: {error}");
    }
}

impl Control {
    /// Whether every worker's loop turns, found out within `patience`.
    fn workers_answer(&self, patience: Duration) -> bool {
        self.reins().all_answer(patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Settings};
    use crate::datapath::inbox;
    use crate::server::Server;

    fn settings() -> Settings {
        let config = Config {
            listen: vec!["127.0.0.1:0".into()],
            user: vec!["a:b".into()],
            threads: Some(2),
            ..Config::default()
        };
        Settings::new(&config, vec![]).expect("good settings")
    }

    #[test]
    fn a_worker_that_is_stuck_stops_the_pings_of_all() {
        let server = Server::start(settings(), &mut Default::default()).expect("starts");
        let control = server.control();
        assert!(control.workers_answer(Duration::from_secs(20)));
        // One more worker, whose loop does not turn.
        let poll = mio::Poll::new().expect("a poll");
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).expect("a waker");
        let (stuck, _inbox) = inbox::open(waker);
        let with_stuck = control.with_worker(settings(), stuck);
        assert!(!with_stuck.workers_answer(Duration::from_millis(50)));
    }
}
