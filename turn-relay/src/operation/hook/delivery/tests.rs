//! Over tokio's paused clock: seconds pass at once.

use std::cell::RefCell;

use serde_json::Value;

use super::*;

/// Posts `events` to a hook that answers with each of `answers` in turn and accepts the rest; tells what was posted when.
async fn post(events: u64, answers: Vec<Called>) -> (Vec<(Duration, Value)>, Outcomes) {
    let outcomes = Outcomes::default();
    let (events_in, delivery) = queue("hook", 2_000, outcomes.clone());
    for n in 0..events {
        events_in.put(serde_json::json!({ "n": n }));
    }
    drop(events_in);
    let (start, posted) = (Instant::now(), RefCell::new(vec![]));
    let answers = RefCell::new(answers.into_iter());
    delivery
        .post_with(|body| {
            posted.borrow_mut().push((start.elapsed(), serde_json::from_slice(&body).expect("JSON")));
            std::future::ready(Some(answers.borrow_mut().next().unwrap_or(Called::Accepted(vec![]))))
        })
        .await;
    (posted.into_inner(), outcomes)
}

#[test]
fn a_full_queue_loses_and_counts_events_and_those_first_that_others_are_preferred_to() {
    let outcomes = Outcomes::default();
    let (events, mut delivery) = queue("hook", 8, outcomes.clone());
    for n in 0..5 {
        events.put_if_roomy(n);
    }
    assert_eq!(outcomes.dropped.get(), 0);
    events.put_if_roomy(5);
    assert_eq!(outcomes.dropped.get(), 1, "it leaves room");
    for n in 0..3 {
        events.put(n);
    }
    assert_eq!(outcomes.dropped.get(), 1);
    events.put(3);
    assert_eq!(outcomes.dropped.get(), 2);
    delivery.events.try_recv().expect("one is taken");
    events.put(4);
    assert_eq!(outcomes.dropped.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn events_are_posted_in_batches_and_in_order() {
    let (posted, counts) = post(1201, vec![]).await;
    let sizes: Vec<usize> =
        posted.iter().map(|(_, batch)| batch["events"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [500, 500, 201]);
    let ids = posted.iter().flat_map(|(_, batch)| batch["events"].as_array().unwrap());
    for (n, event) in ids.enumerate() {
        assert_eq!(event["n"], n);
    }
    assert_ne!(posted[0].1["batch"], posted[1].1["batch"]);
    assert_eq!(counts.delivered.get(), 1201);
}

#[tokio::test(start_paused = true)]
async fn batch_that_failed_is_posted_again_unchanged_and_ever_more_slowly() {
    let failed = || Called::Failed("status 503".into());
    let (posted, counts) = post(600, (0..10).map(|_| failed()).collect()).await;
    assert_eq!(posted.len(), 12, "eleven times the first, once the second");
    for (_, batch) in &posted[1..11] {
        assert_eq!(batch, &posted[0].1);
    }
    let pauses: Vec<Duration> = posted[..11].windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    for (n, pause) in (0..).zip(&pauses) {
        let longest = FIRST_PAUSE.saturating_mul(1 << n).min(LONGEST_PAUSE);
        assert!((longest / 2..=longest + Duration::from_millis(2)).contains(pause), "pause {n}: {pause:?}");
    }
    assert_eq!((counts.delivered.get(), counts.rejected.get()), (600, 0));
}

#[tokio::test(start_paused = true)]
async fn batch_that_the_hook_will_never_take_is_counted_and_the_next_one_goes_on() {
    let (posted, counts) = post(501, vec![Called::Refused(400)]).await;
    assert_eq!(posted.len(), 2);
    assert_eq!((counts.delivered.get(), counts.rejected.get()), (1, 500));
}
