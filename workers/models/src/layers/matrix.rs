//! Matrix products of parts of slices.

use gemm::Parallelism;

/// A matrix in a slice.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    shape: (usize, usize),
    strides: (usize, usize),
}

impl<'a> Matrix<'a> {
    /// The matrix that begins the slice, with rows so far apart.
    pub(crate) fn new(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        Self {
            values,
            shape: (rows, columns),
            strides: (stride, 1),
        }
    }

    pub(crate) fn transposed(self) -> Self {
        let Self {
            values,
            shape: (rows, columns),
            strides: (row, column),
        } = self;
        Self {
            values,
            shape: (columns, rows),
            strides: (column, row),
        }
    }

    fn is_inside(&self) -> bool {
        let ((rows, columns), (row, column)) = (self.shape, self.strides);
        rows == 0 || columns == 0 || (rows - 1) * row + (columns - 1) * column < self.values.len()
    }
}

/// `left · right`, written to a matrix whose rows are `stride` apart, or added to it; on this thread.
pub(crate) fn multiply(
    result: &mut [f32],
    stride: usize,
    adds: bool,
    left: Matrix<'_>,
    right: Matrix<'_>,
) {
    let ((rows, inner), (expected, columns)) = (left.shape, right.shape);
    let end = (rows.max(1) - 1) * stride + columns;
    assert!(
        inner == expected && left.is_inside() && right.is_inside(),
        "matrices that do not fit"
    );
    assert!(
        end <= result.len() && columns <= stride,
        "a result that does not fit"
    );
    #[expect(unsafe_code, reason = "the matrix product takes pointers")]
    // SAFETY: every element of the three matrices was checked to lie in its slice; `result` is borrowed alone.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            result.as_mut_ptr(),
            1,
            stride as isize,
            adds,
            left.values.as_ptr(),
            left.strides.1 as isize,
            left.strides.0 as isize,
            right.values.as_ptr(),
            right.strides.1 as isize,
            right.strides.0 as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_matrices_are_multiplied_and_added() {
        let (left, right) = ([1.0, 2.0, 9.0, 3.0, 4.0, 9.0], [1.0, 0.0, 1.0, 1.0]);
        let mut result = [10.0; 5];
        let right = Matrix::new(&right, 2, 2, 2);
        multiply(
            &mut result,
            3,
            true,
            Matrix::new(&left, 2, 2, 3),
            right.transposed(),
        );
        assert_eq!(result, [11.0, 13.0, 10.0, 13.0, 17.0]);
        multiply(&mut result, 3, false, Matrix::new(&left, 2, 2, 3), right);
        assert_eq!(result, [3.0, 2.0, 10.0, 7.0, 4.0]);
    }
}
