//! `poa-gpu man`: the manual's pages, in roff.

use clap::{Args, Command};
use clap_mangen::Man;

use crate::checks::unknown;
use crate::cli::version;
use crate::error::{Error, Result};

/// Arguments of `man`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu man | man -l -                                          reads it
  poa-gpu man train > ~/.local/share/man/man1/poa-gpu-train.1     keeps the page of a command
  poa-gpu man eval knn                                            the page of a command's command")]
pub struct ManArgs {
    /// The command whose page it is [default: the program's]
    #[arg(value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `root` is the whole program's command.
pub(super) fn run(args: &ManArgs, mut root: Command) -> Result<()> {
    root.build();
    let mut command = &root;
    for name in &args.command {
        command = command.find_subcommand(name).ok_or_else(|| {
            let known: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
            Error::Usage(unknown("command", name, &known))
        })?;
    }
    let page = page(command).map_err(|e| Error::Usage(format!("the page cannot be made: {e}")))?;
    say!("{}", page.trim_end());
    Ok(())
}

/// The page of a command. What stands below its help, examples, keeps its lines.
fn page(command: &Command) -> std::io::Result<String> {
    let examples = command.get_after_help().map(ToString::to_string);
    let name = command.get_display_name().unwrap_or("poa-gpu").to_string();
    let man = Man::new(command.clone()).title(name).source(format!("poa-gpu {}", version::SHORT));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    // every section defines the apostrophe anew; once is enough
    let preamble = |line: &str| line.starts_with(".ie ") || line.starts_with(".el ");
    let text = String::from_utf8_lossy(&page);
    let lines = text.lines().enumerate().filter(|(i, line)| *i < 2 || !preamble(line));
    let mut page: String = lines.map(|(_, line)| format!("{line}\n")).collect();
    if let Some(examples) = examples {
        page.push_str(".SH EXAMPLES\n.nf\n");
        for line in examples.lines().skip_while(|line| line.trim_end_matches(':') == "Examples") {
            // what stands first in a line must not be taken for a request
            let line = line.replace('\\', "\\e").replace('-', "\\-");
            page.push_str(&if line.starts_with(['.', '\'']) { format!("\\&{line}\n") } else { line + "\n" });
        }
        page.push_str(".fi\n");
    }
    Ok(page)
}
