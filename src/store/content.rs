//! Content: staged ahead in pieces, read back chunk by chunk (Q-7, ST-17), or together with others if it is small.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::accept::CHUNK;
use super::handle::Inner;
use super::request::Op;
use super::rows::{self, row_id};
use super::{DueRecipient, Store, StoreError, fault};
use crate::message::QueueId;

/// Octets per [`Staged::append`].
const PIECE: usize = 1 << 20;

/// Content of at most so many octets is small: however many transactions wait for a worker, what waits with them is bounded.
const SMALL: u64 = 16 << 10;

/// Most octets of small content that are read together.
const TOGETHER: u64 = 1 << 20;

const ONE_CHUNK: &str = "SELECT data FROM chunk WHERE id = ?1";

/// Small content by its message, without the added header.
pub type Contents = HashMap<QueueId, Arc<Vec<u8>>>;

/// The content of those of these messages whose content is small, as far as it can be read and is whole.
pub(super) fn small(conn: &Connection, of: &[DueRecipient]) -> Contents {
    let mut contents = Contents::new();
    let Ok(mut chunk) = conn.prepare_cached(ONE_CHUNK) else {
        return contents;
    };
    let mut left = TOGETHER;
    for DueRecipient { head, .. } in of {
        let size = head.content_size();
        if size > SMALL.min(left) || contents.contains_key(&head.id) {
            continue;
        }
        let data = chunk.query_row([row_id(head.id, 0)], |row| {
            Ok(Arc::new(row.get_ref(0)?.as_blob()?.to_vec()))
        });
        if let Ok(data) = data
            && data.len() as u64 == size
        {
            left -= size;
            contents.insert(head.id, data);
        }
    }
    contents
}

impl Store {
    /// Begins the content of a message that is larger than one chunk; its pieces are committed ahead.
    /// Dropping the returned guard without enqueueing removes what was staged.
    pub fn stage(&self, id: QueueId) -> Staged {
        Staged::new(Arc::clone(&self.inner), id)
    }

    /// The content of a message as chunks, in order, without the added header.
    ///
    /// # Errors
    /// [`StoreError`]; the attempt is settled as temporary 4.3.1, or 4.3.0 for a damaged row.
    pub fn content(&self, id: QueueId) -> Result<ContentReader, StoreError> {
        ContentReader::open(Arc::clone(&self.inner), id)
    }
}

/// Content that is staged ahead of its message in committed chunks. Dropping it removes what was staged.
pub struct Staged {
    store: Arc<Inner>,
    id: QueueId,
    chunks: u32,
    size: u64,
    /// It belongs to a message now, or to nobody whose removal is our business.
    settled: bool,
}

impl Staged {
    pub(super) fn new(store: Arc<Inner>, id: QueueId) -> Staged {
        Staged {
            store,
            id,
            chunks: 0,
            size: 0,
            settled: false,
        }
    }

    /// Commits one more piece, at most 1 MiB; returns after its commit.
    ///
    /// Pieces of a multiple of 256 KiB make full rows.
    ///
    /// # Errors
    /// [`StoreError`]; the message is refused, and dropping the guard removes the rest.
    pub fn append(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        if piece.len() > PIECE {
            return Err(StoreError::Failed("a piece of content over 1 MiB".into()));
        }
        if piece.is_empty() {
            return Ok(());
        }
        self.store.shared.check_space()?;
        self.store.ask_briefly(Op::Stage {
            id: self.id,
            first: self.chunks,
            data: piece.to_vec(),
        })?;
        self.chunks += piece.len().div_ceil(CHUNK) as u32;
        self.size += piece.len() as u64;
        Ok(())
    }

    pub(super) fn id(&self) -> QueueId {
        self.id
    }

    /// Rows and octets.
    pub(super) fn extent(&self) -> (u32, u64) {
        (self.chunks, self.size)
    }

    /// The message has it, or nobody knows.
    pub(super) fn settle(&mut self) {
        self.settled = true;
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.settled {
            // Nothing to wait for: what is left when this is not heard is swept at the next start. Also after an append
            // that failed, because it may have been the first.
            self.store.tell(Op::Unstage { id: self.id });
        }
    }
}

/// Reads the content of one message, chunk by chunk, in short read transactions.
pub struct ContentReader {
    store: Arc<Inner>,
    id: QueueId,
    next: u32,
    chunks: u32,
    /// Octets still to come.
    left: u64,
    /// Most content is one chunk: it comes with the first look.
    first: Option<Vec<u8>>,
}

impl ContentReader {
    pub(super) fn open(store: Arc<Inner>, id: QueueId) -> Result<ContentReader, StoreError> {
        let found: Option<(u32, i64, Option<Vec<u8>>)> = store.readers.read(|conn| {
            conn.prepare_cached(
                "SELECT chunks, content_size, (SELECT data FROM chunk WHERE id = message.id << 20) \
                 FROM message WHERE id = ?1",
            )
            .and_then(|mut statement| {
                statement
                    .query_row([id.get()], |row| {
                        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                    })
                    .optional()
            })
            .map_err(|error| fault::answer_for(&error))
        })?;
        let Some((chunks, size, first)) = found else {
            return Err(StoreError::Failed(format!("no message {id}")));
        };
        Ok(ContentReader {
            store,
            id,
            next: 0,
            chunks,
            left: u64::try_from(size).unwrap_or(0),
            first,
        })
    }

    /// The next chunk, or `None` at the end.
    ///
    /// # Errors
    /// [`StoreError`]; the transaction must be broken off without its final dot.
    pub fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        if self.next == self.chunks {
            if self.left != 0 {
                return Err(self.damaged());
            }
            return Ok(None);
        }
        let chunk = match self.first.take() {
            Some(first) => Some(first),
            None => self.chunk()?,
        };
        let Some(chunk) = chunk else {
            return Err(if self.is_finished()? {
                StoreError::Failed(format!(
                    "the content of {} is gone with its message",
                    self.id
                ))
            } else {
                self.damaged()
            });
        };
        let Some(left) = self.left.checked_sub(chunk.len() as u64) else {
            return Err(self.damaged());
        };
        self.left = left;
        self.next += 1;
        Ok(Some(chunk))
    }

    fn chunk(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let row = row_id(self.id, self.next);
        self.store.readers.read(|conn| {
            conn.prepare_cached(ONE_CHUNK)
                .and_then(|mut statement| statement.query_row([row], |row| row.get(0)).optional())
                .map_err(|error| fault::answer_for(&error))
        })
    }

    /// Whether no recipient is left, so that the content may be gone.
    fn is_finished(&self) -> Result<bool, StoreError> {
        let (first, last) = rows::row_range(self.id);
        self.store.readers.read(|conn| {
            conn.prepare_cached(
                "SELECT NOT EXISTS (SELECT 1 FROM recipient WHERE id BETWEEN ?1 AND ?2 AND state < 3)",
            )
            .and_then(|mut statement| statement.query_row([first, last], |row| row.get(0)))
            .map_err(|error| fault::answer_for(&error))
        })
    }

    /// the message is held with that reason, its running attempt is the caller's to settle.
    fn damaged(&self) -> StoreError {
        let reason = format!("damaged content: {} octets of it are missing", self.left);
        self.store.hold_damaged(self.id, &reason);
        StoreError::Damaged(reason)
    }
}
