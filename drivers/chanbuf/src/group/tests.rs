//! What only the inside shows.

use super::*;

fn group(members: u64) -> Group {
    let mut group = Group::new(Some("g"), 0);
    for id in 0..members {
        group.join(id, Arc::default());
    }
    group
}

fn log(count: usize, key: Option<&str>) -> Log {
    let message = Message::builder("s").data("x");
    let message = match key {
        Some(key) => message.key(key),
        None => message,
    };
    Log {
        messages: vec![message.build().unwrap(); count].into(),
        base: 0,
    }
}

fn take(group: &mut Group, log: &mut Log, member: MemberId, max: usize) -> Vec<Delivery> {
    let mut out = Vec::new();
    let ask = Ask {
        member,
        max,
        lease: Some(Duration::from_secs(1)),
        yields: true,
    };
    group.take(log, true, &ask, &mut out);
    out
}

#[test]
fn nothing_is_left_of_what_is_settled() {
    for members in [1, 2] {
        let mut group = group(members);
        // The other has enough to do.
        group.members.asked(1, false);
        let mut log = log(300, Some("k"));
        for action in [
            SettleAction::Release,
            SettleAction::Retry { after: None },
            SettleAction::Ack,
        ] {
            let all = take(&mut group, &mut log, 0, 300);
            assert_eq!((all.len(), group.leases.len()), (300, 300));
            for delivery in all {
                let id = delivery.token.id();
                assert!(group.extend(0, id, Duration::from_secs(9)));
                assert!(matches!(group.settle(0, id, action), Settled::Done));
            }
            assert_eq!(group.leases.len(), 0, "leases end with their deliveries");
        }
        assert_eq!(group.held(), 0);
        assert_eq!(group.owners.is_some(), members > 1);
        assert!(group.owners.is_none_or(|owners| owners.is_empty()));
        assert!(!group.pending.has_keys());
    }
}

#[test]
fn a_member_gives_way_once_and_not_for_ever() {
    let mut group = group(2);
    let mut log = log(100, None);
    assert_eq!(take(&mut group, &mut log, 0, 10).len(), 10);
    // The other has not asked yet, and never does.
    for _ in 0..3 {
        assert_eq!(take(&mut group, &mut log, 0, 10).len(), 0);
        assert_eq!(take(&mut group, &mut log, 0, 10).len(), 10);
    }
}
