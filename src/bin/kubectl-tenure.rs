//! The kubectl plugin: `kubectl tenure`.

fn main() -> std::process::ExitCode {
    tenure::app::kubectl_plugin()
}
