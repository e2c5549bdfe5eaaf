//! Builds again when a file comes into one of the folders that the program holds, or goes.

fn main() {
    println!("cargo::rerun-if-changed=web");
    println!("cargo::rerun-if-changed=../../clients/js");
}
