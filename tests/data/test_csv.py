"""Tables of numbers are read; every other table is refused by line and column."""

import numpy as np
import pytest

from ntkit.data import load, load_inputs
from ntkit.errors import InputError


@pytest.fixture
def table(tmp_path):
    """Writes text (or bytes) to table.csv and returns its path."""

    def write(text):
        path = tmp_path / "table.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_the_last_column_is_the_target(table):
    data = load(table("a,b,y\n1,2,0.5\n3,4,1.5\n5,6,2.5\n"))
    np.testing.assert_array_equal(data.x, [[1, 2], [3, 4], [5, 6]])
    np.testing.assert_array_equal(data.y, [0.5, 1.5, 2.5])
    assert (data.kind, data.columns, data.shape, data.name) == ("regression", ("a", "b"), (2,), "table")
    assert data.x_test is None
    assert data.y_test is None


@pytest.mark.parametrize("target", ["a", 0, -3])
def test_the_target_is_found_by_name_and_by_number(table, target):
    data = load(table("a,b,y\n0.5,2,7\n1.5,4,8\n"), target=target)
    np.testing.assert_array_equal(data.y, [0.5, 1.5])
    assert data.columns == ("b", "y")


@pytest.mark.parametrize(
    "text",
    ["1,2,0\n3,4,1\n5,6,0\n7,8,1", "1;2;0\r\n3;4;1\r\n5;6;0\r\n7;8;1\r\n", "1\t2\t0\n\n3\t4\t1\n5\t6\t0\n7\t8\t1"],
)
def test_without_a_header_and_with_other_delimiters(table, text):
    data = load(table(text))
    np.testing.assert_array_equal(data.x, [[1, 2], [3, 4], [5, 6], [7, 8]])
    np.testing.assert_array_equal(data.y, [0, 1, 0, 1])
    assert (data.kind, data.columns) == ("classification", ())


def test_a_header_of_numbers_is_declared(table):
    path = table("0,1,label\n0,1,2\n3,4,5\n6,7,2\n6,7,5\n")
    with pytest.raises(InputError, match="line 1, column 3: 'label' is not a number"):
        load(path, target=0)
    assert load(path, header=True).columns == ("0", "1")


def test_a_byte_order_mark_and_quotes_are_no_part_of_a_name(table):
    data = load(table(b'\xef\xbb\xbf"a, in m",y\n1,0.5\n2,0.25\n'))
    assert data.columns == ("a, in m",)


def test_text_in_the_target_is_a_class(table):
    data = load(table("1,2,cat\n3,4,dog\n5,6,cat\n"))
    assert list(data.classes) == ["cat", "dog"]
    assert data.kind == "classification"


def test_whole_numbers_are_classes_only_if_few(table):
    few = "".join(f"{i},{i % 3}\n" for i in range(30))
    many = "".join(f"{i},{i}\n" for i in range(30))
    assert load(table(few)).kind == "classification"
    assert load(table(few), kind="regression").y.dtype == np.float64
    assert load(table(many)).kind == "regression"


@pytest.mark.parametrize(
    "text, words",
    [
        ("a,b,y\n1,2,0.5\n1,red,1\n", r"line 3, column 2 \('b'\): 'red' is not a number"),
        ("a,b,y\n1,2,0.5\n,2,1\n", r"line 3, column 1 \('a'\): the value is missing"),
        ("a,b,y\n1,NA,0.5\n1,2,1\n", r"line 2, column 2 \('b'\): the value is missing"),
        ("1,?,0.5\n1,2,1\n", "line 1, column 2: the value is missing"),
        ("a,b,y\n1,2,0.5\n1,2,\n", r"line 3, column 3 \('y'\): the target is missing"),
        ("a,b,y\n1,inf,0.5\n", r"line 2, column 2 \('b'\): 'inf' is not finite"),
        ("a,b,y\n1,2,inf\n3,4,1\n", r"line 2, column 3 \('y'\): 'inf' is not finite"),
        ("a,b,y\n1,2,0.5\n\n1,2\n", "line 4: 2 columns, but the first row has 3"),
        ("a,b,y\n1,2,0.5,7\n", "line 2: 4 columns, but the first row has 3"),
        ("a,a,y\n1,2,0.5\n", "names 'a' more than once"),
        ("a,b,y\n", "a header but no rows"),
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("y\n1\n2\n", "one column only"),
        ("1,2,0\n3,4,0\n", "all labels are 0"),
        ("a,y\n1_0,0.5\n1,2\n", "'1_0' is not a number"),
        ("a,y\n0x10,0.5\n1,2\n", "'0x10' is not a number"),
        ("a;b;y\n1,5;2;0\n1;2;1\n", r"column 1 \('a'\): '1,5' is not a number. Write decimals with a point"),
        ("a;b;y\n1;2;0,5\n1;2;1\n", r"column 3 \('y'\): '0,5' is not a number. Write decimals with a point"),
        ("1,5;2,5;0,5\n1,5;2,5;0,7\n", "column 2: '5;2' is not a number. .*decimal commas"),
        ("a,b,y\n1,2,0.5,\n1,2,1,\n", "line 2: 4 columns, but the first row has 3. Remove the delimiter"),
        ("a,b,y,\n1,2,0.5,\n1,2,1,\n", "target is missing. Every line ends in a delimiter"),
        ("1,2,0.5,\n1,2,1,\n", "target is missing. Every line ends in a delimiter"),
        (b"a,y\n\xff\xfe,1\n", "not UTF-8"),
        (b'a,y\n"1,2\n', "not a readable CSV"),
        (b"PK\x03\x04\x00\x00\xff\xff", "not UTF-8"),
    ],
)
def test_bad_tables_are_refused_by_place(table, text, words):
    with pytest.raises(InputError, match=words) as caught:
        load(table(text))
    assert "table.csv" in str(caught.value)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"target": "z"}, "`target` names the column 'z', but the names in table.csv are a, y"),
        ({"target": 2}, "`target` is column 2, but table.csv has 2 columns"),
        ({"target": "a", "header": False}, "the file has no header"),
        ({"kind": "classification"}, "whole numbers or text, but one is 0.5"),
    ],
)
def test_bad_options_are_refused(table, options, words):
    with pytest.raises(InputError, match=words):
        load(table("a,y\n1,0.5\n2,1\n"), **options)


def test_text_is_no_target_of_a_regression(table):
    with pytest.raises(InputError, match="one is 'cat'"):
        load(table("1,cat\n2,dog\n"), kind="regression")


def test_a_wide_table_keeps_every_digit(table):
    x = np.random.default_rng(0).normal(size=(50, 40))
    text = "\n".join(",".join(map(repr, row)) for row in x.tolist())
    np.testing.assert_array_equal(load_inputs(table(text)), x)


def test_inputs_without_a_target(table):
    path = table("a,b,y\n1,2,0\n3,4,1\n")
    np.testing.assert_array_equal(load_inputs(path), [[1, 2, 0], [3, 4, 1]])
    np.testing.assert_array_equal(load_inputs(path, drop="y"), [[1, 2], [3, 4]])
    with pytest.raises(InputError, match="line 3, column 1"):
        load_inputs(table("1,2\n3,4\nred,5\n"))
    with pytest.raises(InputError, match=r"column 3: the value is missing\. Every line ends"):
        load_inputs(table("1,2,\n3,4,\n"))
