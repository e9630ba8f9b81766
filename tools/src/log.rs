//! What a node says on stderr: lines with a time for people, or lines for the journal of systemd,
//! which has a time of its own and reads from `<N>` at a line's beginning how urgent it is
//! (sd-daemon(3)).

use std::fmt;
use std::io;

use rustix::fs::fstat;
use sealog_node::settings::{LogFormat, Settings};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Set by systemd to what stdout or stderr is connected to, as `device:inode`.
const JOURNAL_STREAM: &str = "JOURNAL_STREAM";
/// The priority of an error, as syslog(3) counts.
const ERROR: u8 = 3;

/// Logs to stderr from now on, as the settings say.
pub fn to_stderr(settings: &Settings) {
    let for_journal = match settings.log_format {
        LogFormat::Auto => is_journal(),
        LogFormat::Text => false,
        LogFormat::Journald => true,
    };
    let subscriber = tracing_subscriber::fmt().with_max_level(settings.log).with_writer(io::stderr).with_target(false);
    // Fails if there is one already, which then serves as well.
    let _ = if for_journal { subscriber.event_format(Journald::new()).try_init() } else { subscriber.try_init() };
}

/// Why this process ends, on stderr.
pub fn last_words(text: &str) {
    if is_journal() {
        eprint!("{}", prefixed(ERROR, text));
    } else {
        eprintln!("{text}");
    }
}

/// Whether stderr goes to the journal: the variable alone says nothing, it is inherited by those whose
/// stderr was redirected since.
fn is_journal() -> bool {
    let Ok(stat) = fstat(io::stderr()) else { return false };
    std::env::var(JOURNAL_STREAM).is_ok_and(|stream| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Each line with its priority: the journal makes an entry of each.
fn prefixed(priority: u8, text: &str) -> String {
    text.lines().map(|line| format!("<{priority}>{line}\n")).collect()
}

/// Events as the journal takes them.
struct Journald {
    plain: Format<Full, ()>,
}

impl Journald {
    fn new() -> Journald {
        Journald { plain: Format::default().without_time().with_level(false).with_target(false) }
    }
}

impl<S, N> FormatEvent<S, N> for Journald
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut text = String::new();
        self.plain.format_event(context, Writer::new(&mut text), event)?;
        writer.write_str(&prefixed(priority(*event.metadata().level()), &text))
    }
}

fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => ERROR,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_priority() {
        assert_eq!(prefixed(4, "one\ntwo\n"), "<4>one\n<4>two\n");
        assert_eq!(prefixed(3, "why"), "<3>why\n");
    }
}
