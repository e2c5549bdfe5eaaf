//! Plays one seed and prints its plan, its history and what went wrong: `cargo run -p im-testkit --example sim -- 17`.

use im_testkit::sim::{Plan, run};

fn main() {
    tracing_subscriber::fmt().without_time().with_writer(std::io::stderr).init();
    let seed = std::env::args().nth(1).and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let plan = Plan::of(seed);
    println!("{plan:?}");
    match run(plan) {
        Ok(outcome) => {
            for event in &outcome.history {
                println!("{}", serde_json::to_string(event).unwrap_or_default());
            }
            println!("{:#?}", outcome.report);
        }
        Err(error) => println!("{error}"),
    }
}
