//! The terminal of `huskv top`: raw mode, a screen of its own, and keys.
//!
//! Invariants: the terminal is as before when the screen is dropped, and before the message of a panic is printed. A line is never longer than
//! the terminal is wide, and one that is cut ends with an ellipsis.
//!
//! See also: [`super::view`] (the lines).

use std::io::{self, Stdout, Write};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::style::{Attribute, Color, Print, SetAttribute, SetForegroundColor};
use crossterm::terminal::{
    self, BeginSynchronizedUpdate, Clear, ClearType, DisableLineWrap, EnableLineWrap, EndSynchronizedUpdate,
    EnterAlternateScreen, LeaveAlternateScreen,
};
use crossterm::{cursor, execute, queue};
use tokio::sync::mpsc;

use super::view::{Line, Style};

/// How long the thread that reads keys waits before it looks whether it is still wanted.
const POLL: Duration = Duration::from_millis(100);
/// The keys that wait to be handled.
const KEYS: usize = 16;

/// Whether the terminal is taken.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// What a person at the terminal has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// They want to leave.
    Quit,
    /// The window has another size.
    Resize,
}

/// The screen, for as long as it is there.
pub(super) struct Screen {
    out: Stdout,
    coloured: bool,
}

impl Screen {
    /// Takes the terminal; without colours where `NO_COLOR` is set.
    pub(super) fn take() -> io::Result<Self> {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            previous(info);
        }));
        terminal::enable_raw_mode()?;
        TAKEN.store(true, Ordering::SeqCst);
        let coloured = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        // From here on the drop of the screen gives the terminal back.
        let mut screen = Self { out: io::stdout(), coloured };
        execute!(screen.out, EnterAlternateScreen, DisableLineWrap, cursor::Hide)?;
        Ok(screen)
    }

    /// Returns the columns and rows of the window.
    pub(super) fn size() -> (usize, usize) {
        // A terminal that was not given a size says zero.
        let known = terminal::size().ok().filter(|(columns, rows)| *columns > 0 && *rows > 0);
        let (columns, rows) = known.unwrap_or((80, 24));
        (columns.into(), rows.into())
    }

    /// Replaces what is on the screen.
    pub(super) fn draw(&mut self, lines: &[Line]) -> io::Result<()> {
        let (columns, rows) = Self::size();
        queue!(self.out, BeginSynchronizedUpdate)?;
        for (row, line) in (0_u16..).zip(lines.iter().take(rows)) {
            let text = fit(&line.text, columns);
            queue!(self.out, cursor::MoveTo(0, row))?;
            match line.style {
                Style::Plain => {}
                Style::Title => queue!(self.out, SetAttribute(Attribute::Bold))?,
                Style::Dim => queue!(self.out, SetAttribute(Attribute::Dim))?,
                Style::Good if self.coloured => queue!(self.out, SetForegroundColor(Color::Green))?,
                Style::Bad if self.coloured => queue!(self.out, SetForegroundColor(Color::Red))?,
                Style::Good | Style::Bad => queue!(self.out, SetAttribute(Attribute::Bold))?,
            }
            queue!(self.out, Print(text), SetAttribute(Attribute::Reset), Clear(ClearType::UntilNewLine))?;
        }
        if lines.len() < rows {
            let end = u16::try_from(lines.len()).unwrap_or(u16::MAX);
            queue!(self.out, cursor::MoveTo(0, end), Clear(ClearType::FromCursorDown))?;
        }
        queue!(self.out, EndSynchronizedUpdate)?;
        self.out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Returns what fits of a line; the digits before the cut are dropped, for the first half of a number is another number.
fn fit(text: &str, columns: usize) -> String {
    if text.chars().nth(columns).is_none() {
        return text.to_owned();
    }
    let kept: String = text.chars().take(columns.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end_matches(|one: char| one.is_ascii_digit() || one == '.'))
}

/// Gives the terminal back, once: leaving the screen moves the cursor to where it was, over what was printed since.
fn restore() {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    // An error is not reported: the terminal may be gone.
    execute!(io::stdout(), EnableLineWrap, cursor::Show, LeaveAlternateScreen).ok();
    terminal::disable_raw_mode().ok();
}

/// Reads keys on a thread of its own until the receiver is dropped.
pub(super) fn actions() -> mpsc::Receiver<Action> {
    let (sender, receiver) = mpsc::channel(KEYS);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            let action = match event::poll(POLL) {
                Ok(false) => continue,
                Ok(true) => event::read().map_or(Some(Action::Quit), |event| action(&event)),
                // The terminal is gone.
                Err(_) => Some(Action::Quit),
            };
            if let Some(action) = action
                && sender.blocking_send(action).is_err()
            {
                return;
            }
        }
    });
    receiver
}

/// Returns what an event of the terminal means: `q`, Escape and Ctrl-C quit.
fn action(event: &Event) -> Option<Action> {
    match event {
        Event::Resize(..) => Some(Action::Resize),
        Event::Key(KeyEvent { kind: KeyEventKind::Release, .. }) => None,
        Event::Key(KeyEvent { code, modifiers, .. }) => {
            let is_quit = match code {
                KeyCode::Char('q' | 'Q') | KeyCode::Esc => true,
                KeyCode::Char('c' | 'd') => modifiers.contains(KeyModifiers::CONTROL),
                _ => false,
            };
            is_quit.then_some(Action::Quit)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_cut_shows_no_part_of_a_number() {
        let row = "node▂  4  1234  1.25 ms";
        let cuts = [23, 22, 19, 18, 14, 12, 10, 9, 1].map(|columns| fit(row, columns));
        let expected = [
            row,
            "node▂  4  1234  1.25 …",
            "node▂  4  1234  …",
            "node▂  4  1234  …",
            "node▂  4  …",
            "node▂  4  …",
            "node▂  4 …",
            "node▂  …",
            "…",
        ];
        assert_eq!(cuts, expected);
    }

    #[test]
    fn three_keys_quit() {
        let of = |code, modifiers| action(&Event::Key(KeyEvent::new(code, modifiers)));
        let none = KeyModifiers::NONE;
        for (code, modifiers) in
            [(KeyCode::Char('q'), none), (KeyCode::Esc, none), (KeyCode::Char('c'), KeyModifiers::CONTROL)]
        {
            assert_eq!(of(code, modifiers), Some(Action::Quit), "{code:?}");
        }
        assert_eq!((of(KeyCode::Char('c'), none), of(KeyCode::Enter, none)), (None, None));
        assert_eq!(action(&Event::Resize(80, 24)), Some(Action::Resize));
    }
}
