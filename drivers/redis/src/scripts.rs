//! The scripts: what must happen at once on the server, by its clock.

use std::sync::LazyLock;

use redis::Script;

macro_rules! scripts {
    ($($name:ident = $file:literal;)*) => {
        $(pub(crate) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(include_str!(concat!("scripts/", $file))));)*
    };
}

scripts! {
    CREATE = "create.lua";
    OPEN = "open.lua";
    CLAIM = "claim.lua";
    SETTLE = "settle.lua";
    EXTEND = "extend.lua";
    LEAVE = "leave.lua";
    ADD = "add.lua";
    TRIM = "trim.lua";
    SCHEDULE = "schedule.lua";
    MOVE = "move.lua";
    CANCEL = "cancel.lua";
    PULSE_ENTER = "pulse_enter.lua";
    PULSE_LEAVE = "pulse_leave.lua";
    DEDUP_CLAIM = "dedup_claim.lua";
    DEDUP_COMMIT = "dedup_commit.lua";
    DEDUP_RELEASE = "dedup_release.lua";
}
