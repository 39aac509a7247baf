//! Wiring: configuration, the clock, telemetry and the processes.

/// Runs the program and returns its exit code.
pub fn main() -> std::process::ExitCode {
    for (name, text) in crate::api::crds::render().unwrap() {
        std::fs::write(format!("crds/{name}"), text).unwrap();
    }
    std::process::ExitCode::SUCCESS
}
