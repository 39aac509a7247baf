//! Wiring: configuration, the clock, telemetry and the processes.

mod clock;
mod config;
mod dev_clock;
mod gateway;
mod health;
mod ledger;
mod limits;
mod marks;
mod notify;
mod operator;
mod plugin;
mod telemetry;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use config::{Command, Options};

/// Runs the program and returns its exit code.
pub fn main() -> ExitCode {
    let result = match Options::parse().command {
        Command::Operator(options) => operator::run(*options).map_err(|it| it.to_string()),
        Command::Gateway(options) => gateway::run(*options).map_err(|it| it.to_string()),
        Command::Ledger(command) => ledger::run(&command),
        Command::Crds(options) => print_crds(options.output_dir.as_deref()),
    };
    end(result)
}

/// Runs the kubectl plugin and returns its exit code.
pub fn kubectl_plugin() -> ExitCode {
    end(plugin::run())
}

fn end(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The logs may not be set up, or be JSON that nobody reads at a terminal.
            writeln!(std::io::stderr(), "tenure: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

/// Prints the CustomResourceDefinitions as one YAML stream, or one file each into a folder.
fn print_crds(output_dir: Option<&std::path::Path>) -> Result<(), String> {
    for (name, text) in crate::api::crds::render().map_err(|it| it.clone())? {
        match output_dir {
            Some(dir) => std::fs::write(dir.join(&name), text).map_err(|it| format!("write {name}: {it}"))?,
            None => writeln!(std::io::stdout(), "---\n{text}").map_err(|it| it.to_string())?,
        }
    }
    Ok(())
}
