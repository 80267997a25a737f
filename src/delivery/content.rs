//! The content of one message for as many transactions as an attempt needs: header additions, then the stored octets.

use std::sync::Arc;

use crate::message::Head;
use crate::store::{ContentReader, Store, StoreError};

/// Where the content comes from.
pub struct Content {
    head: Arc<Head>,
    body: Body,
}

enum Body {
    /// All of it, in memory.
    Whole(Arc<Vec<u8>>),
    /// Read anew for each transaction; the chunks of a large message are never in memory together (ST-17).
    Stored(Store),
}

impl Content {
    /// Gets hold of the content before anybody is contacted: `warm`, or from the store; a message of one chunk is kept
    /// in memory for the attempt.
    ///
    /// # Errors
    /// [`StoreError`]; the attempt ends before it began.
    pub fn open(
        store: &Store,
        head: &Arc<Head>,
        warm: Option<Arc<Vec<u8>>>,
    ) -> Result<Content, StoreError> {
        let body = match warm {
            Some(warm) => Body::Whole(warm),
            None => {
                let mut reader = store.content(head.id)?;
                let first = reader.next_chunk()?.unwrap_or_default();
                if first.len() as u64 == head.content_size() {
                    Body::Whole(Arc::new(first))
                } else {
                    Body::Stored(store.clone())
                }
            }
        };
        Ok(Content {
            head: Arc::clone(head),
            body,
        })
    }

    /// The octets of it, header additions included.
    pub fn size(&self) -> u64 {
        self.head.size
    }

    /// Begins to read it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn read(&self) -> Result<Pieces<'_>, StoreError> {
        Ok(Pieces {
            header: Some(&self.head.added_header),
            body: match &self.body {
                Body::Whole(octets) => Rest::Whole(Some(octets)),
                Body::Stored(store) => Rest::Stored(store.content(self.head.id)?, Vec::new()),
            },
        })
    }
}

/// The content, piece by piece.
pub struct Pieces<'a> {
    header: Option<&'a [u8]>,
    body: Rest<'a>,
}

enum Rest<'a> {
    Whole(Option<&'a [u8]>),
    Stored(ContentReader, Vec<u8>),
}

impl Pieces<'_> {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// [`StoreError`]; the transaction must be broken off without its final dot.
    pub fn next_piece(&mut self) -> Result<Option<&[u8]>, StoreError> {
        if let Some(header) = self.header.take() {
            return Ok(Some(header));
        }
        match &mut self.body {
            Rest::Whole(octets) => Ok(octets.take()),
            Rest::Stored(reader, chunk) => match reader.next_chunk()? {
                Some(next) => {
                    *chunk = next;
                    Ok(Some(chunk))
                }
                None => Ok(None),
            },
        }
    }
}
