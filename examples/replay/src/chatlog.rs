//! The log that is played: tab-separated day, HH:MM, nick, text.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use flate2::read::MultiGzDecoder;

use crate::error::ReplayError;

/// The longest id of a user.
const NICK_BYTES: usize = 64;

/// A nick, as an index into [`ChatLog::nicks`].
pub(crate) type Nick = usize;

/// A chat log.
#[derive(Debug, Default)]
pub(crate) struct ChatLog {
    pub(crate) nicks: Vec<String>,
    pub(crate) days: Vec<Day>,
}

/// A day, which is played in a group of its own.
#[derive(Debug, Default)]
pub(crate) struct Day {
    pub(crate) name: String,
    /// Who says what, in the order of the file.
    pub(crate) lines: Vec<(Nick, String)>,
}

impl Day {
    /// Who says something, in the order in which they first do.
    pub(crate) fn members(&self) -> Vec<Nick> {
        let mut seen = HashSet::new();
        self.lines.iter().map(|(nick, _)| *nick).filter(|nick| seen.insert(*nick)).collect()
    }
}

impl ChatLog {
    /// Reads the first days of a file.
    pub(crate) fn read(path: &Path, days: usize) -> Result<Self, ReplayError> {
        let cannot = |source| ReplayError::File { path: path.to_owned(), source };
        let lines = open(path).map_err(cannot)?.lines();
        let mut log = Self::default();
        let mut numbers = HashMap::new();
        for (index, line) in lines.enumerate() {
            let line = line.map_err(cannot)?;
            let wrong = |why| ReplayError::Line { path: path.to_owned(), line: index + 1, why };
            if !log.add(&line, days, &mut numbers).map_err(wrong)? {
                break;
            }
        }
        Ok(log)
    }

    /// Whether the line was one of the days wanted.
    fn add(
        &mut self,
        line: &str,
        days: usize,
        numbers: &mut HashMap<String, Nick>,
    ) -> Result<bool, &'static str> {
        let mut fields = line.splitn(4, '\t');
        let (Some(day), Some(_), Some(nick), Some(text)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err("not day, time, nick and text, separated by tabs");
        };
        if nick.is_empty() || nick.len() > NICK_BYTES || nick.chars().any(char::is_control) {
            return Err("the nick is no id: 1 to 64 bytes without control characters");
        }
        if self.days.last().is_none_or(|last| last.name != day) {
            if self.days.len() == days {
                return Ok(false);
            }
            self.days.push(Day { name: day.to_owned(), lines: Vec::new() });
        }
        let nick = *numbers.entry(nick.to_owned()).or_insert_with(|| {
            self.nicks.push(nick.to_owned());
            self.nicks.len() - 1
        });
        if let Some(day) = self.days.last_mut() {
            day.lines.push((nick, text.to_owned()));
        }
        Ok(true)
    }

    /// By nick: the last day of each.
    pub(crate) fn last_days(&self) -> Vec<usize> {
        let mut last = vec![0; self.nicks.len()];
        for (index, day) in self.days.iter().enumerate() {
            day.lines.iter().for_each(|(nick, _)| last[*nick] = index);
        }
        last
    }

    /// How many messages there are.
    pub(crate) fn messages(&self) -> u64 {
        self.days.iter().map(|day| day.lines.len() as u64).sum()
    }
}

fn open(path: &Path) -> io::Result<impl BufRead> {
    let file = File::open(path)?;
    let zipped = path.extension().is_some_and(|extension| extension == "gz");
    let reader: Box<dyn Read> = if zipped { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    Ok(BufReader::new(reader))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(text: &str, days: usize) -> Result<ChatLog, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        ChatLog::read(file.path(), days).map_err(|error| error.to_string())
    }

    #[test]
    fn a_day_is_a_group_and_a_nick_a_user() {
        let log =
            read("d1\t09:00\ta\thi\nd1\t09:01\tb\tho\tho\nd2\t00:00\ta\tback\nd3\t1\tc\tx\n", 2).unwrap();
        assert_eq!(log.nicks, ["a", "b"]);
        assert_eq!(log.days[0].lines, [(0, "hi".to_owned()), (1, "ho\tho".to_owned())]);
        assert_eq!(log.days[1].members(), [0]);
        assert_eq!((log.days.len(), log.messages(), log.last_days()), (2, 3, vec![1, 0]));
    }

    #[test]
    fn a_wrong_line_is_named() {
        assert!(read("d1\t09:00\ta\thi\nd1 09:01 b ho\n", 9).unwrap_err().contains("line 2"));
        assert!(read(&format!("d\t1\t{}\tx\n", "n".repeat(65)), 9).unwrap_err().contains("64 bytes"));
    }
}
