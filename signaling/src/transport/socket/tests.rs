use std::sync::Arc;

use tokio::{
    io::{DuplexStream, duplex},
    time::Instant,
};

use super::*;
use crate::outbox::{Budget, OutboxLimits};

fn unbounded() -> Arc<Budget> {
    Arc::new(Budget::new(usize::MAX, 0))
}

/// A socket whose pipe holds 1 KiB, its far end, and an outbox with twenty times as much.
fn stuffed() -> (Socket<DuplexStream>, DuplexStream, Outbox, Arc<Metrics>) {
    let (near, far) = duplex(1024);
    let metrics = Arc::new(Metrics::default());
    let limits = OutboxLimits { frames: 100, bytes: 100_000 };
    let outbox = Outbox::new(limits, unbounded(), metrics.clone());
    for _ in 0..5 {
        let frame = Frame::farewell(CloseCode::SlowReader, "x".repeat(4096), None).expect("an error frame");
        outbox.push(frame).expect("there is room");
    }
    (Socket::new(near), far, outbox, metrics)
}

#[tokio::test(start_paused = true)]
async fn a_write_that_stalls_for_ten_seconds_is_given_up() {
    let (mut socket, _far, outbox, metrics) = stuffed();
    let start = Instant::now();
    assert!(matches!(socket.event(Some((&outbox, &metrics))).await, Event::Stalled));
    assert_eq!(start.elapsed().as_secs(), STALL_DEADLINE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_slow_but_reads_is_not_given_up() {
    let (mut socket, mut far, outbox, metrics) = stuffed();
    let reader = async {
        // 512 bytes a second: all of it takes four times the deadline, and each frame less than it.
        for _ in 0..36 {
            sleep(Duration::from_secs(1)).await;
            far.read_exact(&mut [0; 512]).await.expect("more is to come");
        }
    };
    tokio::select! {
        _ = socket.event(Some((&outbox, &metrics))) => panic!("it was given up"),
        () = reader => {}
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_socket_waits_without_a_deadline() {
    let (near, _far) = duplex(1024);
    let metrics = Arc::new(Metrics::default());
    let outbox = Outbox::new(OutboxLimits { frames: 1, bytes: 1000 }, unbounded(), metrics.clone());
    let mut socket = Socket::new(near);
    let day = Duration::from_secs(86_400);
    assert!(timeout(day, socket.event(Some((&outbox, &metrics)))).await.is_err());
}
