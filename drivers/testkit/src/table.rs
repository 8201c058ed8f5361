//! Tables for documentation, made from what drivers declare and what runs came to.

use std::fmt::Write;

use streams_core::Capabilities;

use crate::{Report, Verdict};

/// Driver × guarantee as a Markdown table, from what the drivers declare.
///
/// ```
/// use streams_core::Capabilities;
///
/// let one = Capabilities::none("one").groups(true);
/// let two = Capabilities::none("two");
/// let table = streams_testkit::guarantees_table(&[&one, &two]);
/// assert!(table.starts_with("| guarantee | one | two |\n| --- | --- | --- |\n"));
/// assert!(table.contains("| consumer groups | yes | no |\n"));
/// ```
#[must_use]
pub fn guarantees_table(drivers: &[&Capabilities]) -> String {
    let columns: Vec<_> = drivers.iter().map(|driver| driver.rows()).collect();
    let names = drivers.iter().map(|driver| driver.driver.to_owned());
    let count = columns.first().map_or(0, Vec::len);
    let rows = (0..count).map(|row| {
        let values = columns.iter().map(|column| column[row].1.clone()).collect();
        (columns[0][row].0.to_owned(), values)
    });
    markdown("guarantee", names, rows)
}

/// Driver × case as a Markdown table, from reports of the same kit.
#[must_use]
pub fn cases_table(reports: &[&Report]) -> String {
    let names = reports.iter().map(|report| report.driver.clone());
    let rows = crate::cases().iter().map(|case| {
        let values = reports.iter().map(|report| {
            let found = report.cases.iter().find(|one| one.case == case.name);
            match found.map(|one| &one.verdict) {
                Some(Verdict::Passed) => "passed".to_owned(),
                Some(Verdict::Failed(_)) => "**failed**".to_owned(),
                Some(Verdict::NotApplicable(missing)) => format!("needs {missing}"),
                None => "not run".to_owned(),
            }
        });
        (format!("`{}`", case.name), values.collect())
    });
    markdown("case", names, rows)
}

fn markdown(
    corner: &str,
    names: impl Iterator<Item = String>,
    rows: impl Iterator<Item = (String, Vec<String>)>,
) -> String {
    let mut table = format!("| {corner} |");
    let mut rule = "| --- |".to_owned();
    for name in names {
        let _ = write!(table, " {} |", cell(&name));
        rule.push_str(" --- |");
    }
    let _ = writeln!(table, "\n{rule}");
    for (name, values) in rows {
        let _ = write!(table, "| {} |", cell(&name));
        for value in values {
            let _ = write!(table, " {} |", cell(&value));
        }
        table.push('\n');
    }
    table
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
