//! The kit finds what is broken: drivers that break one promise each, and the cases that must fail
//! on each of them, no more and no fewer.
//!
//! The sound driver underneath is the in-memory one, on virtual time: what hangs costs nothing.

mod driver;
mod fault;
mod transactions;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use streams_chanbuf::Chanbuf;
use streams_core::{AnyDriver, Clock, Result, StreamName, async_trait};
use streams_testkit::{
    ForeignProducer, Harness, Network, Report, RunOptions, Scale, Server, run_with,
};

use driver::{Broken, LARGEST};
use fault::Fault;

struct BrokenHarness {
    sound: Chanbuf,
    broken: Arc<Broken>,
    clock: Clock,
}

impl BrokenHarness {
    fn new(fault: Fault) -> Self {
        let clock = Clock::following_tokio();
        let mut sound = Chanbuf::builder()
            .retain(20_000)
            .capacity(20_000)
            .largest_message(LARGEST)
            .clock(clock);
        if fault != Fault::KeepsOnClose {
            // There, the end of a lease would mend what is broken.
            sound = sound.lease(Duration::from_secs(2));
        }
        let sound = sound.build().unwrap();
        let broken = Broken::new(fault, &sound);
        Self {
            sound,
            broken,
            clock,
        }
    }
}

#[async_trait]
impl Harness for BrokenHarness {
    async fn open(&self) -> Result<AnyDriver> {
        Ok(self.broken.around(&self.sound))
    }

    fn name(&self) -> Option<String> {
        Some(format!("{:?}", self.broken.fault))
    }

    fn clock(&self) -> Clock {
        self.clock
    }

    fn server(&self) -> Option<&dyn Server> {
        Some(self)
    }

    fn network(&self) -> Option<&dyn Network> {
        Some(self)
    }

    fn foreign(&self) -> Option<&dyn ForeignProducer> {
        Some(self)
    }
}

#[async_trait]
impl Server for BrokenHarness {
    async fn restart(&self) -> Result<()> {
        self.broken.restart().await;
        Ok(())
    }
}

#[async_trait]
impl Network for BrokenHarness {
    async fn cut(&self) -> Result<()> {
        self.broken.cut();
        Ok(())
    }

    async fn mend(&self, latency: Duration) -> Result<()> {
        self.broken.mend(latency);
        Ok(())
    }
}

#[async_trait]
impl ForeignProducer for BrokenHarness {
    async fn write(&self, stream: &StreamName, data: &[u8]) -> Result<()> {
        self.broken.write_foreign(&self.sound, stream, data).await
    }
}

fn run(fault: Fault) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let options = RunOptions::new().scale(Scale::Quick).print(false);
        run_with(BrokenHarness::new(fault), options).await
    })
}

/// Checks that exactly these cases fail.
fn fails(fault: Fault, expected: &[&str]) {
    let report = run(fault);
    compare(&report, expected, report.failed());
}

/// Checks that these cases fail; others may, as chance has it.
fn finds(fault: Fault, expected: &[&str]) {
    let report = run(fault);
    let failed: BTreeSet<_> = report.failed().collect();
    let missing: Vec<_> = expected
        .iter()
        .filter(|case| !failed.contains(*case))
        .collect();
    assert!(missing.is_empty(), "missing: {missing:?}\n{report}");
}

/// Checks that exactly these cases pass, for faults that hardly anything survives.
fn passes(fault: Fault, expected: &[&str]) {
    let report = run(fault);
    compare(&report, expected, report.passed());
}

fn compare(report: &Report, expected: &[&str], found: impl Iterator<Item = &'static str>) {
    let expected: BTreeSet<_> = expected.iter().copied().collect();
    let found: BTreeSet<_> = found.collect();
    let missing: Vec<_> = expected.difference(&found).collect();
    let more: Vec<_> = found.difference(&expected).collect();
    assert!(
        missing.is_empty() && more.is_empty(),
        "missing: {missing:?}, more: {more:?}\n{report}"
    );
}

#[test]
fn nothing_fails_on_a_sound_driver() {
    fails(Fault::None, &[]);
}

macro_rules! broken {
    ($($name:ident: $fault:ident $check:ident $($case:ident)*;)+) => {$(
        #[test]
        fn $name() {
            $check(Fault::$fault, &[$(stringify!($case)),*]);
        }
    )+

        /// A case that passes on every broken driver checks nothing.
        #[test]
        fn every_case_fails_on_some_driver() {
            let tables: &[(&str, &[&str])] = &[$((stringify!($check), &[$(stringify!($case)),*])),+];
            for case in streams_testkit::cases() {
                let fails = |(check, cases): &(&str, &[&str])| (*check != "passes") == cases.contains(&case.name);
                assert!(tables.iter().any(fails), "no broken driver fails {}", case.name);
            }
        }
    };
}

broken! {
    loses_messages: LosesMessages passes
        partial_batch_failure payloads attempt_count release retry_survives_crash lease_extension
        lease_lost missing_stream unsupported_is_said delayed delayed_list error_is_not_a_drop dlq_round_trip
        dlq_down;
    duplicates: Duplicates passes
        partial_batch_failure payloads attempt_count release retry_survives_crash lease_extension
        lease_lost missing_stream unsupported_is_said delayed delayed_list error_is_not_a_drop dlq_round_trip
        dlq_down reconnect network_cut;
    cleans_headers: CleansHeaders fails metadata;
    cuts_data: CutsData fails payloads;
    shifts_time: ShiftsTime passes
        attempt_count partial_batch_settle close_gives_back unsupported_is_said delayed delayed_list poison
        foreign_record;
    blames_all: BlamesAll fails partial_batch_failure;
    hides_failures: HidesFailures fails
        partial_batch_failure payloads close_is_idempotent transaction;
    delivers_early: DeliversEarly fails delayed delayed_list;
    cancels_nothing: CancelsNothing fails delayed delayed_list;
    lists_backwards: ListsBackwards fails delayed_list;
    writes_after_close: WritesAfterClose fails close_is_idempotent transaction;
    writes_later: WritesLater fails
        partial_batch_failure payloads writer_close_flushes close_is_idempotent group_start;
    reverses: Reverses fails
        concurrent_publish many_streams groups no_group order_per_key order_across_retry
        retry_after_error cancel_receive continue_after_close start_position group_start
        exactly_once exactly_once_crash exactly_once_retry;
    takes_too_much: TakesTooMuch fails
        concurrent_publish concurrent_subscribe redelivery_delay cancel_receive
        continue_after_close backpressure start_position exactly_once exactly_once_crash;
    not_cancel_safe: NotCancelSafe finds cancel_receive;
    acks_on_receive: AcksOnReceive fails
        attempt_count release partial_batch_settle redelivery_delay crash_without_close
        close_gives_back retry_survives_crash close_drains close_deadline lease_extension
        lease_lost error_is_not_a_drop dlq_down reconnect exactly_once exactly_once_crash
        exactly_once_retry;
    acks_on_drop: AcksOnDrop fails
        partial_batch_settle crash_without_close retry_survives_crash lease_lost;
    ignores_acks: IgnoresAcks fails
        concurrent_subscribe rebalance ack_blocks_redelivery partial_batch_settle
        continue_after_close crash_without_close close_gives_back retry_survives_crash close_drains
        lease_extension lease_lost dlq_down exactly_once exactly_once_crash;
    retry_is_ack: RetryIsAck fails
        attempt_count partial_batch_settle redelivery_delay retry_survives_crash error_is_not_a_drop
        dlq_down;
    release_is_ack: ReleaseIsAck fails release close_drains close_deadline exactly_once;
    ignores_retry_delay: IgnoresRetryDelay fails redelivery_delay;
    forgets_attempt: ForgetsAttempt fails attempt_count;
    one_group: OneGroup fails groups start_position;
    group_per_member: GroupPerMember fails
        concurrent_subscribe rebalance ack_blocks_redelivery partial_batch_settle
        continue_after_close crash_without_close close_gives_back retry_survives_crash close_drains
        lease_extension lease_lost group_start dlq_down exactly_once exactly_once_crash;
    favours_one: FavoursOne fails
        concurrent_subscribe no_group rebalance close_is_idempotent close_drains lease_lost
        reconnect;
    ignores_start: IgnoresStart fails start_position group_start;
    ignores_the_future: IgnoresTheFuture fails start_position;
    starts_behind_position: StartsBehindPosition fails start_position;
    ignores_unknown_options: IgnoresUnknownOptions fails unsupported_is_said;
    hides_lost_leases: HidesLostLeases fails lease_lost exactly_once_crash;
    extends_nothing: ExtendsNothing fails lease_extension lease_lost;
    keeps_on_close: KeepsOnClose fails close_gives_back close_deadline exactly_once_crash;
    hangs_on_close: HangsOnClose passes
        rebalance order_per_key order_across_retry slow_key retry_after_error retry_delay
        layers_wrap_batches backpressure unsupported_is_said delayed_list reconnect network_cut;
    receive_hangs_when_closed: ReceiveHangsWhenClosed fails close_is_idempotent;
    schedules_unasked: SchedulesUnasked fails unsupported_is_said delayed;
    drops_poison: DropsPoison fails poison;
    drops_foreign: DropsForeign fails foreign_record;
    one_at_a_time: OneAtATime fails
        slow_key ack_blocks_redelivery release partial_batch_settle retry_delay batch_handler
        crash_without_close close_gives_back retry_survives_crash close_drains close_deadline
        lease_extension start_position exactly_once_retry;
    loses_on_restart: LosesOnRestart fails reconnect;
    dies_on_restart: DiesOnRestart fails reconnect;
    confirms_into_the_void: ConfirmsIntoTheVoid fails network_cut;
    writes_in_part: WritesInPart fails transaction;
    writes_before_settling: WritesBeforeSettling fails exactly_once_crash;
    settles_before_writing: SettlesBeforeWriting fails exactly_once_crash;
    writes_what_is_lost: WritesWhatIsLost fails exactly_once_crash;
}
