//! What the driver is to be told, and what is to be written with it.

use std::collections::BTreeMap;

use super::{After, Dispatcher, Index, NO_LANE};
use crate::{AckToken, Assignment, Message, SettleAction, Settlement, TokenId, TransactionPart};

/// What handlers have published that is written in one transaction with their acknowledgement.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    /// By delivery, and so within a partition in the order of its positions.
    waiting: BTreeMap<TokenId, Vec<Message>>,
    waiting_bytes: usize,
    /// Bytes of what was taken and is not written yet.
    pub(super) taken_bytes: usize,
}

impl Outputs {
    /// Keeps what came of a delivery; returns its bytes.
    fn keep(&mut self, id: TokenId, messages: Vec<Message>) -> usize {
        let bytes = bytes_of(&messages);
        self.waiting_bytes += bytes;
        self.waiting.insert(id, messages);
        bytes
    }

    /// Takes what came of the deliveries from `first` to `last`.
    fn take(&mut self, first: TokenId, last: TokenId) -> Vec<Message> {
        let mut taken = self.waiting.extract_if(first..=last, |_, _| true);
        let mut messages = taken.next().map(|(_, one)| one).unwrap_or_default();
        messages.extend(taken.flat_map(|(_, more)| more));
        let bytes = bytes_of(&messages);
        self.waiting_bytes -= bytes;
        self.taken_bytes += bytes;
        messages
    }

    /// Drops what came of partitions that are gone; returns its bytes.
    fn drop_partitions(&mut self, gone: &[Assignment]) -> usize {
        let mut bytes = 0;
        for assignment in gone {
            let first = assignment.position(0);
            let last = assignment.position(u64::MAX);
            let dropped = self.waiting.extract_if(first..=last, |_, _| true);
            bytes += dropped.map(|(_, one)| bytes_of(&one)).sum::<usize>();
        }
        self.waiting_bytes -= bytes;
        bytes
    }
}

fn bytes_of(messages: &[Message]) -> usize {
    messages.iter().map(Message::size).sum()
}

impl Dispatcher {
    /// Acknowledges a message and lets the next of its lane run.
    pub(super) fn acknowledge(&mut self, index: Index, after: After) {
        let id = self.entries[index as usize].id;
        let counts = if self.cumulative {
            self.positions.done(id)
        } else {
            let token = AckToken::new(id.partition, id.epoch, id.sequence);
            self.settlements.push(token.ack());
            true
        };
        self.remove(index);
        if let After::Written(messages) = after
            && counts
        {
            self.bytes += self.outputs.keep(id, messages);
        }
    }

    /// Gives a delivery back. Until the driver knows, later ones of its lane go back too: it may have
    /// sent them before it could know that they must wait.
    pub(super) fn push_settlement(&mut self, index: Index, action: SettleAction) {
        let (id, lane) = {
            let entry = &self.entries[index as usize];
            (entry.id, entry.lane)
        };
        if !self.cumulative {
            if lane != NO_LANE {
                self.barred.insert(lane);
            }
            let token = AckToken::new(id.partition, id.epoch, id.sequence);
            self.settlements.push(token.settle(action));
        }
    }

    /// The driver was told of what was taken, but for this many.
    pub(crate) fn settling(&mut self, left: usize) {
        if !self.cumulative {
            self.settling = left;
        }
    }

    /// Everything taken has been settled.
    pub(crate) fn all_settled(&mut self) {
        self.settling = 0;
        self.bytes -= std::mem::take(&mut self.outputs.taken_bytes);
        if self.settlements.is_empty() {
            self.barred.clear();
        }
    }

    /// Whether something waits to be given back, so that settling should not.
    pub(crate) fn is_barred(&self) -> bool {
        !self.barred.is_empty()
    }

    /// Takes what is to be settled.
    pub(crate) fn take_settlements(&mut self, out: &mut Vec<Settlement>) {
        if self.cumulative {
            self.positions.take_moved(out);
        } else if out.is_empty() {
            std::mem::swap(&mut self.settlements, out);
        } else {
            out.append(&mut self.settlements);
        }
    }

    /// Takes what is to be settled, each with what is written with it: one part for each delivery, or
    /// for each partition where acknowledgement is by position.
    pub(crate) fn take_parts(&mut self, out: &mut Vec<TransactionPart>) {
        let mut settlements = Vec::new();
        self.take_settlements(&mut settlements);
        for settlement in settlements {
            let mark = settlement.token.id();
            if !self.cumulative {
                let outputs = self.outputs.take(mark, mark);
                out.push(TransactionPart {
                    settlement,
                    outputs,
                });
                continue;
            }
            let first = TokenId {
                sequence: 0,
                ..mark
            };
            let outputs = self.outputs.take(first, mark);
            // What could not be written before goes with it.
            let same = |part: &&mut TransactionPart| {
                let id = part.settlement.token.id();
                (id.partition, id.epoch) == (mark.partition, mark.epoch)
            };
            match out.iter_mut().find(same) {
                Some(part) => {
                    part.settlement = settlement;
                    part.outputs.extend(outputs);
                }
                None => out.push(TransactionPart {
                    settlement,
                    outputs,
                }),
            }
        }
    }

    /// Whether so much waits to be written that it keeps more from being fetched.
    pub(crate) fn outputs_press(&self) -> bool {
        (self.outputs.waiting_bytes + self.outputs.taken_bytes) >= self.max_bytes.div_ceil(2)
    }

    /// Drops what was to be written for partitions that are gone.
    pub(super) fn drop_outputs(&mut self, gone: &[Assignment]) {
        self.bytes -= self.outputs.drop_partitions(gone);
    }

    /// Drops all that was to be written.
    pub(super) fn drop_all_outputs(&mut self) {
        let outputs = std::mem::take(&mut self.outputs);
        self.bytes -= outputs.waiting_bytes + outputs.taken_bytes;
    }

    /// Bytes of what waits to be written or is being written.
    #[cfg(test)]
    pub(super) fn output_bytes(&self) -> usize {
        self.outputs.waiting_bytes + self.outputs.taken_bytes
    }
}
