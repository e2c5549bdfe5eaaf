//! Cursors: a piece of the incarnation and the id of the entry's message. The same for every user, so that a frame can be
//! written once for many sessions; whether a user has that entry is looked up at each pull.

use im_core::{Cursor, Incarnation};

/// How much of the incarnation (hex of a UUID) a cursor carries: 48 bits.
const NAME_BYTES: usize = 12;

fn name(incarnation: &Incarnation) -> &str {
    incarnation.as_str().get(..NAME_BYTES).unwrap_or(incarnation.as_str())
}

/// The cursor of an entry.
pub(crate) fn of(incarnation: &Incarnation, message: i64) -> Cursor {
    Cursor::new(format!("{}-{message}", name(incarnation)))
}

/// The entry of a cursor, if it is one of ours.
pub(crate) fn message(incarnation: &Incarnation, cursor: &Cursor) -> Option<i64> {
    let message = cursor.as_str().strip_prefix(name(incarnation))?.strip_prefix('-')?;
    // Only the text that `of` writes: no sign, no leading zero.
    let number = message.parse().ok().filter(|number| *number >= 0)?;
    (*of(incarnation, number).as_str() == *cursor.as_str()).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_cursors_are_read() {
        let ours = Incarnation::new("0123456789abcdef");
        assert_eq!(message(&ours, &of(&ours, 7)), Some(7));
        assert_eq!(of(&ours, 7).as_str(), "0123456789ab-7");
        for bad in [
            "",
            "-",
            "0123456789ab",
            "0123456789ab-",
            "0123456789ab--7",
            "0123456789ab-+7",
            "0123456789ab-07",
            "0123456789ab-7 ",
            "0123456789ab-99999999999999999999",
            "ffffffffffff-7",
            "\u{0}",
        ] {
            assert_eq!(message(&ours, &Cursor::new(bad)), None, "{bad:?}");
        }
    }
}
