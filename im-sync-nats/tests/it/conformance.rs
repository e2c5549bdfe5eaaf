//! The conformance suite on one server, which each test has for itself: what the machine has, and the newest.

macro_rules! suite {
    ($program:ident) => {
        im_testkit::conformance! {
            crate::support::Own(crate::support::Program::$program),
            lacks {
                log: "not there yet",
                store: "NATS keeps nothing for ever",
                inbox: "not there yet",
                presence: "not there yet",
                outbox: "it has no store",
                trim: "there is no log yet",
                dedupe_window: "there is no log yet",
                lose_tail: "there is no log yet",
                turn_back: "the server's clock is the machine's",
                same_data: "it has no store",
            }
        }
    };
}

mod installed {
    suite!(Installed);
}

mod newest {
    suite!(Newest);
}
