//! Cursors: an entry's place in its inbox, and its nonce.

use im_core::Cursor;

/// The entry that a cursor stands on; place 0 is before every entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stand {
    pub(crate) place: i64,
    pub(crate) nonce: i64,
}

/// Nonces have so many bits: the cursor of an inbox of less than 10¹⁰ entries then has at most 23 bytes.
const NONCE_BITS: u32 = 47;

/// A fresh nonce.
pub(crate) fn nonce() -> i64 {
    rand::random_range(0..1_i64 << NONCE_BITS)
}

impl Stand {
    pub(crate) fn cursor(self) -> Cursor {
        Cursor::new(format!("{}-{:x}", self.place, self.nonce))
    }

    /// Only the text that [`Stand::cursor`] writes.
    pub(crate) fn of(cursor: &Cursor) -> Option<Self> {
        let (place, nonce) = cursor.as_str().split_once('-')?;
        let stand = Self { place: place.parse().ok()?, nonce: i64::from_str_radix(nonce, 16).ok()? };
        (stand.place >= 0 && stand.cursor() == *cursor).then_some(stand)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_cursors_are_read() {
        let stand = Stand { place: 7, nonce: 0xabc };
        assert_eq!(stand.cursor().as_str(), "7-abc");
        assert_eq!(Stand::of(&stand.cursor()), Some(stand));
        for bad in [
            "",
            "-",
            "7",
            "7-",
            "7-ABC",
            "07-abc",
            "-7-abc",
            "7--abc",
            "+7-abc",
            "7-0abc",
            "7-abc ",
            "99999999999999999999-a",
        ] {
            assert_eq!(Stand::of(&Cursor::new(bad)), None, "{bad:?}");
        }
        let longest = Stand { place: 9_999_999_999, nonce: (1 << NONCE_BITS) - 1 };
        assert!(longest.cursor().as_str().len() <= 23);
    }
}
