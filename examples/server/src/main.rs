//! The example chat server: see the library of the same name.

fn main() -> std::process::ExitCode {
    im_server::run()
}
