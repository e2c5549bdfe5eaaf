//! Close codes: what a client does when the server closes the connection.

macro_rules! codes {
    ($($variant:ident $number:literal $name:literal $meaning:literal $client:literal;)*) => {
        /// Why the server closes a connection. 4000–4499: connect again with full-jitter backoff; 4500–4999: do not, by oneself.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum CloseCode {
            $(
                #[doc = concat!($meaning, " Client: ", $client)]
                $variant = $number,
            )*
        }

        impl CloseCode {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code of a number, if this version knows it.
            #[must_use]
            pub fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }

            /// The reason in the close frame.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it means.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }

            /// What a client does.
            #[must_use]
            pub fn advice(self) -> &'static str {
                match self { $(Self::$variant => $client,)* }
            }
        }
    };
}

codes! {
    Draining 4000 "draining"
        "The server stops; another one, or its successor, takes over."
        "Connect again.";
    Slow 4001 "slow"
        "Signals were not acked, or frames not read, in time."
        "Connect again.";
    Silent 4002 "silent"
        "Nothing came for three heartbeats."
        "Connect again.";
    Overloaded 4003 "overloaded"
        "The server has no room for the connection."
        "Connect again.";
    TokenExpired 4004 "token_expired"
        "The token ran out while the session lived."
        "Connect again with a new token.";
    HelloTimeout 4005 "hello_timeout"
        "No valid `hello` came within 10 s."
        "Connect again.";
    Internal 4006 "internal"
        "The server failed; its log tells why."
        "Connect again.";
    Kicked 4500 "kicked"
        "A newer session took this one's place, or the host ended it; the event `kicked` came before."
        "Tell the user; connect again only when the user asks.";
    Unauthorized 4501 "unauthorized"
        "The token is not valid."
        "Sign in again.";
    Protocol 4502 "protocol"
        "The first frame was no `hello`, or could not be read; or what came is no WebSocket."
        "It has a fault; mend it.";
    Flood 4503 "flood"
        "Frames that cannot be read, that are over the rate, or that make no message did not end."
        "It has a fault; mend it.";
    SessionsFull 4504 "sessions_full"
        "The user has as many sessions as are allowed."
        "Tell the user.";
    TooLarge 4505 "too_large"
        "A message was so far above the frame limit that it was not read."
        "It has a fault; mend it.";
}

impl CloseCode {
    /// The number in the close frame.
    #[must_use]
    pub fn number(self) -> u16 {
        self as u16
    }

    /// Whether a client connects again by itself after a close with this number, be it known or not.
    #[must_use]
    pub fn reconnects(number: u16) -> bool {
        !(4500..=4999).contains(&number)
    }
}
