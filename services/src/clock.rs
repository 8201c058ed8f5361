//! Programs whose clock is wrong.

use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::install::debian;

/// A command that runs `program` with its time of day wrong by so many seconds. Time that passes is right.
///
/// # Errors
/// When `faketime` cannot be installed.
pub fn with_wrong_clock(program: &Path, seconds: i64) -> Result<Command> {
    let mut command = Command::new(debian::require("faketime", "faketime")?);
    command
        .args(["-m", "--exclude-monotonic", "-f"])
        .arg(format!("{seconds:+}s"))
        .arg(program);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_program_has_another_time_of_day() {
        let mut date = with_wrong_clock(Path::new("date"), -3600).unwrap();
        let answer = crate::install::run(date.arg("+%s")).unwrap();
        let told = UNIX_EPOCH + Duration::from_secs(answer.trim().parse().unwrap());
        let behind = SystemTime::now().duration_since(told).unwrap().as_secs();
        assert!((3590..3660).contains(&behind), "{behind} s");
    }
}
