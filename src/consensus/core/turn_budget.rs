//! The budget of a turn, in work and in time.
//!
//! Why: heartbeats leave between turns, so what a turn does must not grow with what clients ask for. Bytes bound it
//! where the state machine is as fast as expected; time bounds it where it is not.
//!
//! Invariants: a turn applies one piece at least, or nothing would ever end. Between two pieces it looks at the work
//! done and at the clock. One entry is the smallest piece, and the limits of the API bound that.
//!
//! See also: how much is read from the two queues between two turns (`thread`), how many reads are answered (`reads`).

use crate::model::Millis;

/// The length after which a turn begins nothing more.
pub(crate) const TURN: Millis = 20;

/// The maximum entries of a piece: the clock is read between two pieces.
pub(crate) const ENTRIES_PER_PIECE: usize = 256;

/// The number of pieces that the work of a turn is divided into.
const PIECES: usize = 8;

/// The rest of the budget of this turn.
#[derive(Debug, Default)]
pub(crate) struct TurnBudget {
    /// The beginning, by the clock that measures.
    began: Millis,
    /// The same moment, by the clock of the inputs.
    now: Millis,
    work: usize,
    piece: usize,
    pieces: usize,
}

impl TurnBudget {
    /// Returns the budget of a turn that begins at `now`, which is `began` by the clock that measures, and applies at
    /// most `work`.
    pub fn new(began: Millis, now: Millis, work: usize) -> Self {
        Self { began, now, work, piece: (work / PIECES).max(1), pieces: 0 }
    }

    /// Converts a later moment of the clock that measures to the clock of the inputs.
    pub fn time(&self, measured: Millis) -> Millis {
        self.now + measured.saturating_sub(self.began)
    }

    /// Whether the time of the turn is used up.
    pub fn is_late(&self, measured: Millis) -> bool {
        measured.saturating_sub(self.began) >= TURN
    }

    /// Returns the work of the next piece, or None if the budget is used up.
    pub fn next_batch(&self, measured: Millis) -> Option<usize> {
        // 800 KiB of work in 8 pieces of 100 KiB: a turn stops after 8 of them, or after 4 that take 5 ms each.
        let goes_on = self.pieces == 0 || (self.work > 0 && !self.is_late(measured));
        goes_on.then_some(self.piece)
    }

    /// Subtracts the cost of a piece.
    pub fn spend(&mut self, work: usize) {
        self.work = self.work.saturating_sub(work);
        self.pieces += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many pieces of this cost a turn does while the clock moves on by `ms` with each.
    fn pieces(cost: usize, ms: Millis) -> usize {
        let mut budget = TurnBudget::new(1_000, 5, 800);
        let mut measured = 1_000;
        let mut done = 0;
        while budget.next_batch(measured).is_some() && done < 1_000 {
            budget.spend(cost);
            measured += ms;
            done += 1;
        }
        done
    }

    #[test]
    fn a_turn_ends_by_its_work_or_by_its_time_and_does_one_piece_at_least() {
        assert_eq!(pieces(100, 0), 8);
        assert_eq!(pieces(100, 5), 4);
        assert_eq!(pieces(0, 1), 20);
        assert_eq!(pieces(10_000, 0), 1);
        assert_eq!(pieces(1, 500), 1);
    }

    #[test]
    fn the_time_of_the_inputs_goes_on_within_a_turn() {
        assert_eq!(TurnBudget::new(1_000, 5, 1).time(1_250), 255);
    }
}
