//! Tells the supervisor that the server is alive, for as long as every shard does its work.
//!
//! Each round asks every shard through its inbox, and only the answers of all of them are passed on: one that is stuck, or a
//! runtime that is, keeps the process from looking alive, and the supervisor restarts it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use turn_relay::operation::supervisor;

use crate::shard::{Letter, Shards};

/// Answers the supervisor's watchdog until it is dropped. Does nothing without one.
pub(crate) async fn guard(shards: Arc<Shards>) {
    let Some(period) = supervisor::watchdog() else { return };
    // A third of the period leaves room for one late round.
    let pause = period / 3;
    loop {
        if all_answer(&shards, pause).await {
            supervisor::alive();
        } else {
            tracing::error!("a shard does not answer: the watchdog will not be told that all is well");
        }
        sleep(pause).await;
    }
}

/// Whether all shards answer within `patience`.
pub(crate) async fn all_answer(shards: &Shards, patience: Duration) -> bool {
    let asked = async {
        let mut answers = Vec::new();
        shards
            .tell(|| {
                let (answer, answered) = oneshot::channel();
                answers.push(answered);
                Letter::Answer(answer)
            })
            .await;
        for answer in answers {
            if answer.await.is_err() {
                return false;
            }
        }
        true
    };
    timeout(patience, asked).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_shard_that_is_stuck_or_gone_is_enough_for_nobody_to_be_told_that_all_is_well() {
        let [(works, mut heard), (stuck, _unread), (gone, _)] = [0; 3].map(|_| mpsc::channel(1));
        tokio::spawn(async move {
            while let Some(letter) = heard.recv().await {
                let Letter::Answer(answer) = letter else { panic!("it is asked for an answer") };
                let _ = answer.send(());
            }
        });
        for (others, well) in
            [(vec![], true), (vec![stuck.clone()], false), (vec![gone], false), (vec![stuck], false)]
        {
            let shards = Shards::with_inboxes([vec![works.clone()], others].concat());
            assert_eq!(all_answer(&shards, Duration::from_secs(10)).await, well);
        }
    }
}
