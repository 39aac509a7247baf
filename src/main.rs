//! The `tenure` program: `operator`, `crds`.
fn main() -> std::process::ExitCode {
    tenure::app::main()
}
