//! What the operator sees and does: asks the workers, one after the other, and waits for their answers.
//!
//! A worker answers one question per turn of its loop and looks at a bounded number of allocations for it, so a question costs
//! the packets that wait behind it some microseconds. Nothing here takes a lock that a packet needs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::numbers::Numbers;
use crate::datapath::inbox::{Mailbox, Question};
use crate::metrics::Totals;
use crate::relay::{
    AllocationId, AllocationView, EndReason, Revocations, Shared, TooManyRevoked, WorkerIndex,
};

/// The operator's hand on a running server. Clones are the same hand; after the server's end nobody answers.
#[derive(Clone)]
pub struct Operator(Arc<Inner>);

struct Inner {
    mailboxes: Vec<Mailbox>,
    shared: Arc<Shared>,
    totals: Totals,
    since: Instant,
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operator").field("workers", &self.0.mailboxes.len()).finish_non_exhaustive()
    }
}

/// A worker has too many questions to answer, or has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker does not answer; try again")]
pub struct Unanswered;

/// Where a list goes on: a place at a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) worker: usize,
    pub(crate) place: usize,
}

/// A part of the list of all allocations. It may be empty and yet have a `next`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    pub(crate) allocations: Vec<(WorkerIndex, AllocationView)>,
    pub(crate) next: Option<Cursor>,
}

impl Operator {
    pub(crate) fn new(mailboxes: Vec<Mailbox>, shared: Arc<Shared>, totals: Totals) -> Self {
        Self(Arc::new(Inner { mailboxes, shared, totals, since: Instant::now() }))
    }

    /// At most `limit` allocations from `cursor` on, those of `user` alone if one is named.
    pub(crate) async fn page(
        &self,
        cursor: Cursor,
        user: Option<&str>,
        limit: usize,
    ) -> Result<Page, Unanswered> {
        let (mut page, mut at) = (Page::default(), cursor);
        for _ in 0..QUESTIONS_PER_PAGE {
            let room = limit.saturating_sub(page.allocations.len());
            if at.worker >= self.0.mailboxes.len() || room == 0 {
                break;
            }
            let user = user.map(Box::from);
            let question = |answer| Question::Page { from: at.place, user, limit: room, answer };
            let part = self.ask(at.worker, question).await?;
            let index = WorkerIndex(u16::try_from(at.worker).unwrap_or(u16::MAX));
            page.allocations.extend(part.allocations.into_iter().map(|view| (index, view)));
            at = match part.next {
                Some(place) => Cursor { place, ..at },
                None => Cursor { worker: at.worker + 1, place: 0 },
            };
        }
        page.next = (at.worker < self.0.mailboxes.len()).then_some(at);
        Ok(page)
    }

    pub(crate) async fn find(
        &self,
        id: AllocationId,
    ) -> Result<Option<(WorkerIndex, AllocationView)>, Unanswered> {
        for (worker, index) in (0..self.0.mailboxes.len()).zip(0..) {
            let found = self.ask(worker, |answer| Question::Find { id, answer }).await?;
            if let Some(view) = found {
                return Ok(Some((WorkerIndex(index), view)));
            }
        }
        Ok(None)
    }

    /// Ends one allocation; tells whether it stood.
    pub(crate) async fn end(&self, id: AllocationId) -> Result<bool, Unanswered> {
        for worker in 0..self.0.mailboxes.len() {
            if self.end_at(worker, vec![id], EndReason::Operator).await? > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Refuses a user for a time and ends all its allocations; tells how many.
    ///
    /// # Errors
    /// When as many are revoked as may be, or a worker does not answer in time.
    pub async fn revoke(&self, user: &str, time: Duration) -> Result<usize, NotRevoked> {
        let now = Instant::now();
        // First, so that no allocation begins behind the sweep.
        self.revocations().revoke(now, user, now + time)?;
        let (mut ended, mut cursor) = (0, Some(Cursor::default()));
        while let Some(from) = cursor {
            let page = self.page(from, Some(user), SWEEP).await?;
            for worker in 0..self.0.mailboxes.len() {
                let here = page.allocations.iter().filter(|(index, _)| usize::from(index.0) == worker);
                let ids: Vec<AllocationId> = here.map(|(_, view)| view.id).collect();
                if !ids.is_empty() {
                    ended += self.end_at(worker, ids, EndReason::Revoked).await?;
                }
            }
            cursor = page.next;
        }
        Ok(ended)
    }

    /// Has the workers write a usage event about every allocation that has stood that long.
    pub(crate) async fn report(&self, min_age: Duration) {
        for worker in 0..self.0.mailboxes.len() {
            let mut from = Some(0);
            while let Some(place) = from {
                let report = |answer| Question::Report { from: place, min_age, answer };
                // A worker that is too busy to report now will be asked again in the next round.
                from = self.ask(worker, report).await.ok().flatten();
            }
        }
    }

    pub(crate) fn revocations(&self) -> &Revocations {
        self.0.shared.revocations()
    }

    pub(crate) fn numbers(&self) -> Numbers {
        Numbers::of(self.0.since.elapsed(), &self.0.totals, &self.0.shared)
    }

    async fn end_at(
        &self,
        worker: usize,
        ids: Vec<AllocationId>,
        reason: EndReason,
    ) -> Result<usize, Unanswered> {
        self.ask(worker, |answer| Question::End { ids, reason, answer }).await
    }

    async fn ask<T>(
        &self,
        worker: usize,
        question: impl FnOnce(oneshot::Sender<T>) -> Question,
    ) -> Result<T, Unanswered> {
        let (answer, answered) = oneshot::channel();
        let mailbox = self.0.mailboxes.get(worker).ok_or(Unanswered)?;
        if !mailbox.ask(question(answer)) {
            return Err(Unanswered);
        }
        match timeout(PATIENCE, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(Unanswered),
        }
    }
}

/// Why a user could not be revoked, or not all of its allocations could be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRevoked {
    /// As many are revoked as may be.
    #[error(transparent)]
    TooMany(#[from] TooManyRevoked),
    /// Perhaps not all of its allocations have ended.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

/// Questions for one page of a list: 64 times 1,024 places. A list of one user among very many goes on with `next`.
const QUESTIONS_PER_PAGE: usize = 64;
/// Allocations ended by one message: closing a socket takes some ten microseconds.
const SWEEP: usize = 64;
/// A worker's turn takes milliseconds at the worst.
const PATIENCE: Duration = Duration::from_secs(5);
