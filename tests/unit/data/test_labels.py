import datetime
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agegender.data.labels import Label, capture_stamp, from_filename, from_folder, from_values
from agegender.schema import age_text

STAMP = "20170116174525125"


@pytest.mark.parametrize(
    "name",
    [
        f"39_1_2_{STAMP}.jpg.chip.jpg",
        f"39_1_2_{STAMP}.jpg",
        f"39_1_2_{STAMP}.JPG",
        f"39_1_2_{STAMP}.png",
        f"39_1_2_{STAMP} .jpg.chip.jpg",
        f"39_1_2_{STAMP}jpg.chip.jpg",
        f" 39_1_ 2_{STAMP}.webp",
        f"39_1_2_{STAMP}",
        f"39_1_2_{STAMP[:16]}.jpg.chip.jpg",
        f"39_1_2_{STAMP}8.jpg.chip.jpg",
        f"/some/folder.jpg/39_1_2_{STAMP}.jpg",
        f"s3://bucket/a_b/39_1_2_{STAMP}.jpg",
        f"shards/0001.tar#39_1_2_{STAMP}.jpg",
        f"shards/0001.tar#inner/39_1_2_{STAMP}.jpg",
        f"shards/0001.tar.bz2#39_1_2_{STAMP}.jpg",
        f"phone.ZIP##39_1_2_{STAMP}.jpg",
    ],
)
def test_names_with_unambiguous_fields_are_read(name):
    assert from_filename(name) == Label(39.0, 1, "asian")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (f"39_1_{STAMP}.jpg.chip.jpg", "3 fields expected before the stamp, 2 found"),
        (f"39_1_2_4_{STAMP}.jpg", "3 fields expected before the stamp, 4 found"),
        ("IMG_1234.jpg", "not a name like AGE_GENDER_RACE_STAMP.jpg"),
        ("39_1_2_.jpg", "not a name like"),
        ("39_1_2_2017.jpg", "not a name like"),
        (f"39_1_2_{STAMP}.txt", "not a name like"),
        ("", "not a name like"),
        (f"39__2_{STAMP}.jpg", "gender '' is not a whole number"),
        (f"x_1_2_{STAMP}.jpg", "age 'x' is not a whole number"),
        (f"-5_1_2_{STAMP}.jpg", "age '-5' is not a whole number"),
        (f"3 9_1_2_{STAMP}.jpg", "age '3 9' is not a whole number"),
        (f"³_1_2_{STAMP}.jpg", "age '³' is not a whole number"),
        (f"121_1_2_{STAMP}.jpg", "age 121 is outside 0-120"),
        (f"39_3_2_{STAMP}.jpg", "gender 3 is none of 0 male, 1 female"),
        (f"39_1_5_{STAMP}.jpg", "race 5 is none of 0 white"),
    ],
)
def test_other_names_are_reported_never_guessed(name, problem):
    label = from_filename(name)
    assert (label.age_years, label.gender, label.race) == (None, None, None)
    assert label.problem is not None
    assert problem in label.problem
    assert label.problem.endswith(name)


def test_the_limits_of_age_are_ages():
    assert from_filename(f"0_0_0_{STAMP}.jpg") == Label(0.0, 0, "white")
    assert from_filename(f"120_0_4_{STAMP}.jpg") == Label(120.0, 0, "other")


@pytest.mark.parametrize(
    ("age", "gender", "race", "label"),
    [
        (31, 1, 0, Label(31.0, 1, "white")),
        (31.5, 0.0, None, Label(31.5, 0, None)),
        ("31", "female", "asian", Label(31.0, 1, "asian")),
        (" 31.0 ", "M", "4", Label(31.0, 0, "other")),
        ("7", "F", "", Label(7.0, 1)),
        (7, "Woman", "White", Label(7.0, 1, "white")),
        (7, "1", None, Label(7.0, 1)),
        (7, "1.0", None, Label(7.0, 1)),
        (np.float32(7), np.int8(1), np.int64(3), Label(7.0, 1, "indian")),
        (None, 1, None, Label(None, 1)),
        (5, math.nan, None, Label(5.0)),
        (np.float32("nan"), "nan", None, Label()),
        (None, None, None, Label()),
        ("", "NA", "null", Label()),
        ("None", "u", "unknown", Label()),
        (8, "Girl", " East Asian ", Label(8.0, 1, "East Asian")),
        (8, "boy", "Latino_Hispanic", Label(8.0, 0, "Latino_Hispanic")),
        (8, 1, 7, Label(8.0, 1, "7")),
        (8, 1, "4.0", Label(8.0, 1, "other")),
        ("31 years old", 1, None, Label(31.0, 1)),
    ],
)
def test_values_of_a_manifest(age, gender, race, label):
    assert from_values(age, gender, race) == label


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ((130, 1, 0), "age 130 is outside 0-120"),
        ((-1, 1, 0), "age -1 is outside 0-120"),
        (("old", 1, 0), "age 'old' is not a number or a range"),
        (("31,5", 1, 0), "age '31,5' is not a number or a range"),
        (("31_1", 1, 0), "age '31_1' is not a number or a range"),
        (("12 months", 1, 0), "age '12 months' is not a number or a range"),
        (("29-20", 1, 0), "age '29-20' is a range that ends before it begins"),
        (("under 0", 1, 0), "age 'under 0' is outside 0-120"),
        (("20-130", 1, 0), "age '20-130' is outside 0-120"),
        (("130+", 1, 0), "age '130+' is outside 0-120"),
        ((math.inf, 1, 0), "age inf is outside"),
        ((True, 1, 0), "age 'True' is not a number or a range"),
        ((30, 2, 0), "gender 2 is none of 0 male, 1 female"),
        ((30, 0.5, 0), "gender 0.5 is none of"),
        ((30, True, 0), "gender 'True' is neither male nor female nor a code of --gender-codes"),
        ((30, "woman?", 0), "gender 'woman?' is neither male nor female nor a code of --gender-codes"),
        (([30], 0, 0), "age '[30]' is not a number or a range of two whole years"),
        (([30, None], 0, 0), "age '[30, None]' is not a number or a range of two whole years"),
        (([30.5, 31], 0, 0), "age '[30.5, 31]' is not a number or a range of two whole years"),
        (({"low": 3}, 0, 0), "is not a number or a range"),
    ],
)
def test_values_out_of_range_are_a_problem_with_the_value(values, problem):
    label = from_values(*values)
    assert problem in (label.problem or "")
    assert (label.age_years, label.gender, label.race) == (None, None, None)


@pytest.mark.parametrize(
    ("age", "low", "high"),
    [
        ("20-29", 20, 29),
        (" 20 - 29 ", 20, 29),
        ("20\N{EN DASH}29", 20, 29),
        ("20.0-29.0", 20, 29),
        ("0-2", 0, 2),
        ("25 to 32", 25, 32),
        ("25 to 32 years", 25, 32),
        ("(25, 32)", 25, 32),
        ("[25, 32]", 25, 32),
        ("[25, 32)", 25, 31),
        ("(25, 32]", 26, 32),
        ("more than 70", 70, 120),
        ("More than 70", 70, 120),
        ("over 70", 70, 120),
        (">= 70", 70, 120),
        ("70+", 70, 120),
        ("60 +", 60, 120),
        ("70 and over", 70, 120),
        ("18 or older", 18, 120),
        ("under 3", 0, 2),
        ("less than 3", 0, 2),
        ("<3", 0, 2),
        ([25, 32], 25, 32),
        ((25.0, 32.0), 25, 32),
        (np.array([25, 32]), 25, 32),
    ],
)
def test_a_range_is_kept_as_a_range(age, low, high):
    label = from_values(age, "f", None)
    assert (label.age_years, label.age_low_years, label.age_high_years) == (None, low, high)
    assert (label.gender, label.problem) == (1, None)


@pytest.mark.parametrize("age", ["25", "25-25", [25, 25], "(25, 25)", "[25, 26)"])
def test_a_single_year_is_an_age(age):
    label = from_values(age, None, None)
    assert (label.age_years, label.age_low_years, label.age_high_years) == (25.0, 25.0, 25.0)


@given(low=st.integers(0, 120), high=st.integers(0, 120))
def test_what_is_written_is_read_again(low, high):
    low, high = sorted((low, high))
    label = from_values(age_text(low, high), None, None)
    assert (label.age_low_years, label.age_high_years, label.problem) == (low, high, None)
    assert (label.age_years is None) == (low < high)


@given(
    st.text(max_size=12) | st.lists(st.none() | st.floats() | st.text(max_size=2), max_size=3) | st.binary(max_size=3)
)
def test_any_value_is_a_label_or_a_problem(value):
    label = from_values(value, value, value)
    assert label.problem is None or (label.age_low_years, label.gender, label.race) == (None, None, None)


@pytest.mark.parametrize(
    ("age", "was"),
    [
        ("3-Sep", "Excel made it of the range 3-9?"),
        ("03-Sep", "Excel made it of the range 3-9?"),
        ("9-Mar", "Excel made it of the range 3-9?"),
        ("Oct-19", "Excel made it of the range 10-19?"),
        ("19-Oct", "Excel made it of the range 10-19?"),
        ("2-Mar", "Excel made it of the range 2-3?"),
        ("Feb-00", "Excel made it of the range 0-2?"),
        ("2024-09-03", "a spreadsheet made it of a range?"),
        ("2024-09-03 00:00:00", "a spreadsheet made it of a range?"),
        ("03/09/2024", "a spreadsheet made it of a range?"),
        (datetime.date(2024, 9, 3), "a spreadsheet made it of a range?"),
    ],
)
def test_a_date_is_named_never_guessed(age, was):
    label = from_values(age, 1, None)
    assert label.problem == f"age {str(age)!r} is a date: {was} restore the column as text"
    assert (label.age_low_years, label.gender) == (None, None)


@pytest.mark.parametrize(
    ("value", "codes", "gender"),
    [
        (1, "1=male,0=female", 0),
        ("1", "1=male,0=female", 0),
        (1.0, "1=male,0=female", 0),
        ("0.0", "1=male,0=female", 1),
        (math.nan, "1=male,0=female", None),
        ("female", "1=male,0=female", 1),
        (-1, "1=male,-1=female", 1),
        (2, "0=male,1=female,2=unknown", None),
        (True, "true=male,false=female", 0),
        ("H", "h=male, f=female", 0),
    ],
)
def test_codes_of_a_gender(value, codes, gender):
    assert from_values(None, value, None, codes) == Label(gender=gender)


def test_another_code_is_a_problem():
    assert from_values(30, 2, None, "1=male,0=female").problem == "gender 2 is none of 1 male, 0 female"


@pytest.mark.parametrize(
    ("uri", "label"),
    [
        ("set/31_female/a.jpg", Label(31.0, 1)),
        ("set/female_31/a.jpg", Label(31.0, 1)),
        ("s3://bucket/Male-7/a.jpg", Label(7.0, 0)),
        ("set/31/a.jpg", Label(31.0)),
        ("set/31.5 m/a.jpg", Label(31.5, 0)),
        ("set/female/a.jpg", Label(None, 1)),
        ("0001.tar#62_f/a.jpg", Label(62.0, 1)),
        ("set/20-30/a.jpg", Label(age_range_years=(20, 30))),
        ("set/20-29_female/a.jpg", Label(None, 1, age_range_years=(20, 29))),
        ("set/male 70+/a.jpg", Label(None, 0, age_range_years=(70, 120))),
        ("set/more_than_70/a.jpg", Label(age_range_years=(70, 120))),
        ("set/(25, 32) m/a.jpg", Label(None, 0, age_range_years=(25, 32))),
    ],
)
def test_folders(uri, label):
    assert from_folder(uri) == label


@pytest.mark.parametrize("uri", ["a.jpg", "set/photos/a.jpg", "set/31_1/a.jpg", "set/31_f_x/a.jpg", "set/20_30/a.jpg"])
def test_other_folders_are_reported(uri):
    label = from_folder(uri)
    assert label.age_years is None
    assert "not a folder like 31_female" in (label.problem or "")


def test_a_folder_with_an_impossible_age_is_reported():
    assert from_folder("set/131_female/a.jpg").problem == "age 131 is outside 0-120: folder '131_female'"


@pytest.mark.parametrize(
    ("name", "stamp"),
    [
        (f"39_1_2_{STAMP}.jpg.chip.jpg", STAMP),
        (f"39_1_{STAMP}.jpg.chip.jpg", STAMP),
        (f"24_0_1_{STAMP} .jpg.chip.jpg", STAMP),
        (f"55_0_0_{STAMP}jpg.chip.jpg", STAMP),
        (f"s3://bucket/x/39_1_2_{STAMP}.jpg", STAMP),
        (f"IMG_{STAMP}.jpg", None),
        (f"{STAMP}.jpg", None),
        ("holiday.jpg", None),
        ("31_1_0_2.jpg", None),
    ],
)
def test_capture_stamp(name, stamp):
    assert capture_stamp(name) == stamp


@pytest.mark.utkface
def test_the_real_set_has_its_known_malformed_names():
    folder = Path(os.environ.get("AGEGENDER_UTKFACE", Path(__file__).parents[3] / "../shared/data/utkface"))
    if not folder.is_dir():
        pytest.skip(f"AGEGENDER_UTKFACE: no folder {folder}")
    names = [path.name for path in folder.iterdir()]
    unlabelled = {name.split(".")[0] for name in names if from_filename(name).problem}
    assert unlabelled == {"39_1_20170116174525125", "61_1_20170109142408075", "61_1_20170109150557335"}
    assert from_filename("24_0_1_20170116220224657 .jpg.chip.jpg") == Label(24.0, 0, "black")
    assert from_filename("55_0_0_20170116232725357jpg.chip.jpg") == Label(55.0, 0, "white")
    assert all(capture_stamp(name) for name in names)
