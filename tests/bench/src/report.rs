//! Medians over rounds, ratios within rounds, as a table and as JSON.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Which values of a figure are the better ones.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// The low ones.
    Low,
    /// The high ones.
    High,
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Figure {
    name: String,
    better: Better,
    /// By contender, then by round.
    values: Vec<Vec<f64>>,
    notes: Vec<String>,
}

/// Figures of several contenders, by round.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Name and version; ratios are those of the first to each of the others.
    contenders: Vec<(String, String)>,
    figures: Vec<Figure>,
    /// Microseconds of the same way without a server.
    direct: Vec<(String, Vec<f64>)>,
}

impl Report {
    /// An empty table of these contenders, each a name and a version.
    #[must_use]
    pub fn new(contenders: Vec<(String, String)>) -> Self {
        Self { contenders, figures: vec![], direct: vec![] }
    }

    /// One value of one round.
    pub fn add(&mut self, name: &str, better: Better, contender: usize, value: f64) {
        let contenders = self.contenders.len();
        let at = self.figures.iter().position(|figure| figure.name == name).unwrap_or_else(|| {
            let values = vec![vec![]; contenders];
            self.figures.push(Figure { name: name.into(), better, values, notes: vec![] });
            self.figures.len() - 1
        });
        self.figures[at].values[contender].push(value);
    }

    /// Puts a line below a figure that is there.
    pub fn note(&mut self, name: &str, contender: usize, words: &str) {
        let note = format!("{}: {words}", self.contenders[contender].0);
        if let Some(figure) = self.figures.iter_mut().find(|figure| figure.name == name)
            && !figure.notes.contains(&note)
        {
            figure.notes.push(note);
        }
    }

    /// What the same way takes without a server.
    pub fn direct(&mut self, name: &str, microseconds: f64) {
        match self.direct.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) => values.push(microseconds),
            None => self.direct.push((name.into(), vec![microseconds])),
        }
    }

    /// Writes `results.json` and `results.txt`.
    ///
    /// # Errors
    /// The folder or a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        std::fs::write(folder.join("results.json"), serde_json::to_string_pretty(self)?)?;
        std::fs::write(folder.join("results.txt"), self.text()).context("the results cannot be written")
    }

    /// The table.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, version) in self.contenders.iter().filter(|(_, version)| !version.is_empty()) {
            let _ = writeln!(text, "{name}: {version}");
        }
        let rounds = self.figures.iter().flat_map(|figure| &figure.values).map(Vec::len).max().unwrap_or(0);
        let _ = writeln!(
            text,
            "medians of {rounds} rounds; a ratio is the median of the rounds' ratios, with the lowest and the highest; * is the better one\n"
        );
        if self.contenders.len() <= COLUMNS {
            self.wide(&mut text);
        } else {
            self.long(&mut text);
        }
        for (name, values) in &self.direct {
            let value = short(median(values.iter().copied()));
            let _ = writeln!(
                text,
                "{:62}{value:>12} us",
                format!("without a server, bursts of 8: latency {name}")
            );
        }
        text
    }

    /// A line for each figure.
    fn wide(&self, text: &mut String) {
        let _ = write!(text, "{:62}", "");
        for (name, _) in &self.contenders {
            let _ = write!(text, "{name:>12} ");
        }
        for (name, _) in self.contenders.iter().skip(1) {
            let _ = write!(text, "{:>24}", format!("to {name}"));
        }
        text.push('\n');
        for figure in &self.figures {
            let _ = write!(text, "{:62}", figure.name);
            for values in &figure.values {
                let _ = write!(text, "{:>12} ", short(median(values.iter().copied())));
            }
            for other in figure.values.iter().skip(1) {
                let _ = write!(text, "{:>24}", ratio(figure, other));
            }
            text.push('\n');
            for note in &figure.notes {
                let _ = writeln!(text, "    {note}");
            }
        }
    }

    /// A line for each contender of each figure.
    fn long(&self, text: &mut String) {
        for figure in &self.figures {
            let _ = writeln!(text, "{}", figure.name);
            for (at, ((name, _), values)) in self.contenders.iter().zip(&figure.values).enumerate() {
                if values.is_empty() {
                    continue;
                }
                let _ = write!(text, "  {name:16}{:>12}", short(median(values.iter().copied())));
                let ratio = if at == 0 { String::new() } else { ratio(figure, values) };
                let _ = writeln!(text, "{ratio:>24}");
            }
            for note in &figure.notes {
                let _ = writeln!(text, "    {note}");
            }
        }
    }
}

fn ratio(figure: &Figure, other: &[f64]) -> String {
    let ratios: Vec<f64> = figure.values[0].iter().zip(other).map(|(ours, theirs)| ours / theirs).collect();
    let ratios: Vec<f64> = ratios.into_iter().filter(|ratio| ratio.is_finite()).collect();
    if ratios.is_empty() {
        return "-".into();
    }
    let (low, high) =
        (ratios.iter().copied().fold(f64::INFINITY, f64::min), ratios.iter().copied().fold(0.0, f64::max));
    let middle = median(ratios.into_iter());
    let better = if figure.better == Better::Low { middle < 1.0 } else { middle > 1.0 };
    format!("{middle:.2}x{} ({low:.2}..{high:.2})", if better { "*" } else { " " })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
    }
}

/// Three digits that mean something.
fn short(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// With more contenders than this a line would be too long.
const COLUMNS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_within_each_round_and_the_median_of_them_is_told() {
        let mut report = Report::new(vec![("ours".into(), "1".into()), ("theirs".into(), "2".into())]);
        // The second round ran on a machine half as fast.
        for (ours, theirs) in [(3.0, 6.0), (6.0, 12.0), (4.0, 5.0)] {
            report.add("us/packet", Better::Low, 0, ours);
            report.add("us/packet", Better::Low, 1, theirs);
        }
        let text = report.text();
        let line = text.lines().find(|line| line.starts_with("us/packet")).expect("a line");
        assert!(line.ends_with("0.50x* (0.50..0.80)"), "{line}");
        assert_eq!(line.split_whitespace().collect::<Vec<_>>()[1..3], ["4.00", "6.00"]);
    }

    #[test]
    fn more_is_better_where_it_is_and_nothing_is_said_where_nothing_was_lost() {
        let mut report = Report::new(vec![("ours".into(), "1".into()), ("theirs".into(), "2".into())]);
        report.add("packets", Better::High, 0, 100.0);
        report.add("packets", Better::High, 1, 200.0);
        report.add("lost", Better::Low, 0, 0.0);
        report.add("lost", Better::Low, 1, 0.0);
        let text = report.text();
        assert!(text.contains("0.50x  (0.50..0.50)"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("lost") && line.ends_with('-')), "{text}");
    }

    #[test]
    fn many_contenders_have_a_line_each_and_who_has_no_figure_has_none() {
        let names = ["ours", "a", "b", "c"].map(|name| (name.into(), String::new()));
        let mut report = Report::new(names.into());
        for (contender, value) in [(0, 2.0), (1, 4.0), (3, 1.0)] {
            report.add("joins: s", Better::Low, contender, value);
        }
        let text = report.text();
        let lines: Vec<&str> = text.lines().skip_while(|line| *line != "joins: s").collect();
        let words = |at: usize| lines[at].split_whitespace().collect::<Vec<_>>();
        assert_eq!(words(1), ["ours", "2.00"]);
        assert_eq!(words(2), ["a", "4.00", "0.50x*", "(0.50..0.50)"]);
        assert_eq!(words(3), ["c", "1.00", "2.00x", "(2.00..2.00)"]);
        assert_eq!(lines.len(), 4);
    }
}
