//! A terminal of 80 columns, as far as `coordctl` uses one: what is on its screen after what was written to it.

/// Columns; script(1) without a terminal of its own names none, and this is what programs take then.
const COLUMNS: usize = 80;

/// The screen, however many lines it takes.
#[derive(Debug, Default)]
struct Screen {
    lines: Vec<Vec<char>>,
    row: usize,
    column: usize,
}

/// The lines that are to be seen, without what trails in them.
pub fn screen(written: &str) -> Vec<String> {
    let mut screen = Screen::default();
    let mut letters = written.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\r' => screen.column = 0,
            '\n' => screen.row += 1,
            '\u{1b}' => {
                // ESC [ number letter (ECMA-48, 5.4)
                let code = code(&mut letters.by_ref().skip(1));
                screen.obey(&code);
            }
            letter => screen.put(letter),
        }
    }
    screen.lines.iter().map(|line| line.iter().collect::<String>().trim_end().to_owned()).collect()
}

impl Screen {
    fn line(&mut self) -> &mut Vec<char> {
        while self.lines.len() <= self.row {
            self.lines.push(Vec::new());
        }
        &mut self.lines[self.row]
    }

    /// A full line wraps with the next letter, and not before.
    fn put(&mut self, letter: char) {
        if self.column == COLUMNS {
            (self.row, self.column) = (self.row + 1, 0);
        }
        let column = self.column;
        let line = self.line();
        line.resize(line.len().max(column + 1), ' ');
        line[column] = letter;
        self.column += 1;
    }

    fn obey(&mut self, code: &str) {
        let (number, what) = code.split_at(code.len().saturating_sub(1));
        let number: usize = number.parse().unwrap_or(0);
        match what {
            "A" => self.row = self.row.saturating_sub(number.max(1)),
            "B" => self.row += number.max(1),
            "K" if number == 2 => self.line().clear(),
            "K" if number == 0 => {
                let column = self.column;
                self.line().truncate(column);
            }
            // Colours.
            _ => {}
        }
    }
}

/// Up to the letter that ends a code, and with it.
fn code(letters: &mut impl Iterator<Item = char>) -> String {
    let mut code = String::new();
    for letter in letters {
        code.push(letter);
        if letter.is_ascii_alphabetic() {
            break;
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_drawn_over_and_taken_away() {
        assert_eq!(screen("one\r\ntwo\r\u{1b}[2K\u{1b}[1A\u{1b}[32mONE\u{1b}[0m"), ["ONE", ""]);
        let full = "x".repeat(COLUMNS);
        assert_eq!(screen(&format!("{full}y")), [full.clone(), "y".to_owned()]);
        assert_eq!(screen(&format!("{full}\r\ny")), [full, "y".to_owned()]);
    }
}
