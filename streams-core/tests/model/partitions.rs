//! What the runner says of partitions, and the checks on it.

use std::collections::HashMap;
use std::time::Duration;

use streams_core::{Assignment, Error, ErrorKind, PartitionListener, Result, async_trait};

use crate::world::World;

/// What the listener was told of each assignment.
#[derive(Default)]
pub(crate) struct Partitions(HashMap<Assignment, State>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Assigning,
    Ready,
    Ended,
}

impl Partitions {
    pub(crate) fn is_ready(&self, assignment: Assignment) -> bool {
        self.0.get(&assignment) == Some(&State::Ready)
    }

    /// The assignment of a partition that has not ended.
    fn held(&self, partition: u32) -> Option<Assignment> {
        let live = self.0.iter().filter(|(_, state)| **state != State::Ended);
        live.map(|(one, _)| *one)
            .find(|one| one.partition == partition)
    }

    /// Whether each that was announced has ended.
    pub(crate) fn all_ended(&self) -> bool {
        self.0.values().all(|state| *state == State::Ended)
    }
}

pub(crate) struct Listener(pub(crate) World);

impl Listener {
    fn go_to(&self, partitions: &[Assignment], from: &[Option<State>], to: State) {
        let record = &mut self.0.lock().record;
        for one in partitions {
            let before = record.partitions.0.insert(*one, to);
            record.expect(from.contains(&before), || {
                format!("{one:?} from {before:?} to {to:?}")
            });
        }
    }
}

#[async_trait]
impl PartitionListener for Listener {
    async fn assigned(&self, partitions: &[Assignment]) -> Result<()> {
        for one in partitions {
            let record = &mut self.0.lock().record;
            let held = record.partitions.held(one.partition);
            record.expect(held.is_none(), || {
                format!("{one:?} while there is {held:?}")
            });
        }
        self.go_to(partitions, &[None], State::Assigning);
        self.0.dawdle(Duration::from_millis(200)).await;
        if self.0.chance(self.0.plan.listener_fails) {
            return Err(Error::new(ErrorKind::Unavailable, "cannot restore"));
        }
        self.go_to(partitions, &[Some(State::Assigning)], State::Ready);
        Ok(())
    }

    async fn revoking(&self, partitions: &[Assignment]) {
        self.go_to(partitions, &[Some(State::Ready)], State::Ready);
        self.0.dawdle(Duration::from_millis(50)).await;
        self.go_to(partitions, &[Some(State::Ready)], State::Ended);
    }

    async fn lost(&self, partitions: &[Assignment]) {
        let from = [Some(State::Ready), Some(State::Assigning)];
        self.go_to(partitions, &from, State::Ended);
        self.0.dawdle(Duration::from_millis(50)).await;
    }
}
