//! The conformance suite on one server, which each test has for itself, so that it can lose its newest writes: what the machine has, the
//! oldest Redis that is supported, and Valkey.

macro_rules! suite {
    ($program:ident) => {
        im_testkit::conformance! {
            crate::support::Own(crate::support::server::Program::$program),
            lacks {
                store: "Redis keeps nothing for ever",
                outbox: "it has no store",
                same_data: "it has no store",
                turn_back: "the server's clock is the machine's",
            }
        }
    };
}

mod installed {
    suite!(Installed);
}

mod oldest {
    suite!(Oldest);
}

mod valkey {
    suite!(Valkey);
}
