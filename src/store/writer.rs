//! The one thread that writes: many requests, one transaction, one sync.
//!
//! It takes one request, drains what else waits (at most 256 requests or 8 MiB), applies each so that a bad one fails
//! alone, commits once and then answers all, in order (ST-15, ST-16). An idle store commits at once.
//!
//! What a request may assume: when its answer is positive, its commit is on disk. When the COMMIT itself failed for a
//! reason other than lack of space, nobody knows what is on disk: all requests of the group are told so, nothing is
//! repeated, and the store ends (ST-3, ST-4).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, never, select_biased};
use rusqlite::Connection;

use super::DestinationKey;
use super::open;
use super::request::{Gate, Job, Op};
use super::shared::{Shared, Tally};
use super::statements::Statements;
use crate::clock::Clock;
use crate::heap;

/// Most requests in one transaction (ST-16).
const GROUP_REQUESTS: usize = 256;

/// Most bytes of content in one transaction, but for a single larger request (ST-16).
const GROUP_BYTES: usize = 8 << 20;

/// The state of the writer.
pub(super) struct Writer<'c> {
    pub(super) conn: &'c Connection,
    pub(super) sql: Statements<'c>,
    pub(super) clock: Clock,
    pub(super) shared: Arc<Shared>,
    /// Counts as of the requests applied so far.
    pub(super) tally: Tally,
    /// Destinations whose `next_due` may have changed in this transaction.
    pub(super) touched: BTreeSet<i64>,
    /// Ids of destinations met lately.
    pub(super) known: HashMap<DestinationKey, i64>,
    /// There is content to sweep.
    pub(super) sweep: bool,
    /// The end is to be marked as such.
    orderly: bool,
    /// The earliest time that this transaction gave to a notice, in milliseconds.
    pub(super) next_notice: i64,
    /// Rows of our own notifications that ended undelivered in this transaction, and how many were withheld.
    pub(super) lost: Vec<i64>,
    pub(super) withheld: u64,
    /// How long more requests are waited for before the next group.
    pub(super) gather: Duration,
    /// The checkpointer asks to stand here.
    pub(super) gates: Receiver<Gate>,
    /// When a commit last found no room, for the log.
    pub(super) full: Option<Instant>,
}

impl<'c> Writer<'c> {
    pub(super) fn new(
        conn: &'c Connection,
        clock: Clock,
        shared: Arc<Shared>,
    ) -> rusqlite::Result<Writer<'c>> {
        let tally = Tally::read(conn)?;
        Ok(Writer {
            conn,
            sql: Statements::prepare(conn)?,
            clock,
            shared,
            tally,
            touched: BTreeSet::new(),
            known: HashMap::new(),
            sweep: true,
            orderly: false,
            next_notice: i64::MAX,
            lost: Vec::new(),
            withheld: 0,
            gather: Duration::ZERO,
            gates: never(),
            full: None,
        })
    }

    /// Serves requests until all handles are gone, [`Op::Close`] comes, or the store ends.
    pub(super) fn run(&mut self, requests: &Receiver<Job>, gates: &Receiver<Gate>) {
        self.gates = gates.clone();
        loop {
            let first = match requests.try_recv() {
                Ok(job) => job,
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {
                    if self.sweep {
                        // Nobody waits: a step of removing what finished messages left.
                        if !self.sweep_alone() {
                            return;
                        }
                        continue;
                    }
                    select_biased! {
                        recv(requests) -> job => match job {
                            Ok(job) => job,
                            Err(_) => return,
                        },
                        recv(gates) -> gate => {
                            if let Ok(gate) = gate {
                                stand(&gate);
                            }
                            continue;
                        }
                    }
                }
            };
            let mut jobs = Vec::new();
            let mut closing = self.take(first, &mut jobs);
            if !closing && !self.gather.is_zero() {
                std::thread::sleep(self.gather);
            }
            let mut bytes = jobs.first().map_or(0, |job| job.op.weight());
            while !closing && jobs.len() < GROUP_REQUESTS && bytes < GROUP_BYTES {
                match requests.try_recv() {
                    Ok(job) => {
                        bytes += job.op.weight();
                        closing = self.take(job, &mut jobs);
                    }
                    Err(_) => break,
                }
            }
            if !jobs.is_empty() && !self.serve(jobs) {
                return;
            }
            if closing {
                if self.orderly {
                    self.leave_clean();
                }
                return;
            }
            if let Ok(gate) = gates.try_recv() {
                stand(&gate);
            }
        }
    }

    /// Adds a job that is still wanted to the group; true when none follows.
    fn take(&mut self, job: Job, jobs: &mut Vec<Job>) -> bool {
        if matches!(job.op, Op::Close | Op::Leave) {
            self.orderly = matches!(job.op, Op::Close);
            return true;
        }
        if matches!(job.op, Op::Rest) {
            self.rest();
        } else if job.reply.take() {
            jobs.push(job);
        }
        false
    }

    /// Gives up what only makes the next requests cheaper.
    fn rest(&mut self) {
        self.known = HashMap::new();
        if let Err(error) = open::shrink(self.conn) {
            log::debug!("the writer's cache: {error}");
        }
        heap::hand_back();
    }

    /// The next start is then told from one after a death.
    fn leave_clean(&mut self) {
        let left = (|| {
            self.sql.begin.execute([])?;
            self.sql.save_clean.execute([1])?;
            self.sql.commit.execute([])
        })();
        if let Err(error) = left {
            log::warn!("the queue could not be marked as orderly closed: {error}");
            if !self.conn.is_autocommit() {
                let _ = self.sql.rollback.execute([]);
            }
        }
    }
}

/// Waits while the checkpointer is at work.
pub(super) fn stand(gate: &Gate) {
    let _ = gate.ready.send(());
    // Ends when the checkpointer drops its side, also by a panic.
    let _ = gate.done.recv();
}
