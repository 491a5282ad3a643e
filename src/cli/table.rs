//! Tables for people: columns as wide as their widest cell, two spaces between them.

/// On which side of its column a cell stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// The lines of a table: its header, then a line per row. Every row has a cell per
/// column; what is empty to the right of a line is left out.
pub(super) fn lines(columns: &[(&str, Side)], rows: &[Vec<String>]) -> Vec<String> {
    let width = |place: usize| {
        let cells = rows.iter().filter_map(|row| row.get(place));
        let widest = cells.map(|cell| cell.chars().count()).max();
        widest.unwrap_or(0).max(columns[place].0.chars().count())
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |cells: &[String]| {
        let mut line = String::new();
        for ((cell, width), (_, side)) in cells.iter().zip(&widths).zip(columns) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            match side {
                Side::Left => line.push_str(&format!("{cell:<width$}")),
                Side::Right => line.push_str(&format!("{cell:>width$}")),
            }
        }
        line.trim_end().to_owned()
    };
    let header: Vec<String> = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut lines = vec![line(&header)];
    lines.extend(rows.iter().map(|row| line(row)));
    lines
}

/// A number with commas between its thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes in the largest unit that leaves at least one.
pub(super) fn bytes(number: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, size) in UNITS {
        if number >= size {
            #[expect(clippy::cast_precision_loss, reason = "one digit after the point")]
            let count = number as f64 / size as f64;
            return format!("{count:.1} {unit}");
        }
    }
    format!("{number} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let columns = [("NAME", Side::Left), ("N", Side::Right), ("", Side::Left)];
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["a", "1,000", "x"]), row(["longer", "2", ""])];
        let expected = ["NAME        N", "a       1,000  x", "longer      2"];
        assert_eq!(lines(&columns, &rows), expected);
        assert_eq!(lines(&columns, &[]), ["NAME  N"]);
    }

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [0, 1_023, 1_536, 3 << 20].map(bytes),
            ["0 B", "1023 B", "1.5 KiB", "3.0 MiB"]
        );
    }
}
