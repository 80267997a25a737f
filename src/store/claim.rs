//! Claims: committed before the peer is contacted, and only of rows that are as the dispatcher saw them.

use rusqlite::{OptionalExtension, params};

use super::fault::Fault;
use super::rows::row_id;
use super::writer::Writer;
use super::{ClaimAction, ClaimRequest, Claimed};

impl Writer<'_> {
    /// Claims or moves; what has changed since it was read is left out.
    pub(super) fn claim(&mut self, requests: &[ClaimRequest]) -> Result<Vec<Claimed>, Fault> {
        let mut answer = Vec::with_capacity(requests.len());
        for request in requests {
            let mut numbers = Vec::with_capacity(request.numbers.len());
            for &number in &request.numbers {
                if self.claim_one(request, number)? {
                    numbers.push(number);
                }
            }
            answer.push(Claimed { numbers });
        }
        Ok(answer)
    }

    fn claim_one(&mut self, request: &ClaimRequest, number: u32) -> Result<bool, Fault> {
        let row = row_id(request.id, number);
        match &request.action {
            ClaimAction::Claim { next_attempt } => {
                let now = self.now().millis();
                // state and attempts are read again by the statement that claims.
                let destination: Option<i64> = self
                    .sql
                    .claim
                    .query_row(
                        params![row, request.attempts, now, next_attempt.millis()],
                        |row| row.get(0),
                    )
                    .optional()?;
                let Some(destination) = destination else {
                    return Ok(false);
                };
                self.touched.insert(destination);
                self.tally.queued -= 1;
                self.tally.claimed += 1;
            }
            ClaimAction::Move { destination } => {
                let Some(found) = self.find(row)? else {
                    return Ok(false);
                };
                let to = self.destination(destination)?;
                let moved = self
                    .sql
                    .move_to
                    .execute(params![row, request.attempts, to])?;
                if moved == 0 {
                    return Ok(false);
                }
                self.touched.extend([found.destination, to]);
            }
        }
        Ok(true)
    }
}
