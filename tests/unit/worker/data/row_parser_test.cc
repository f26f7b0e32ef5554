#include "worker/data/row_parser.h"

#include <cmath>
#include <map>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/worker/data/data_testing.h"
#include "worker/data/line_reader.h"

namespace plexus {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class RowParserTest : public ::testing::Test {
 protected:
  void Use(const std::string& data_text) {
    const proto::Data data = DataOf(data_text);
    auto plan = PlanFields(data);
    ASSERT_TRUE(plan.ok()) << plan.status().ToString();
    auto parser = RowParser::Create(data, *std::move(plan));
    ASSERT_TRUE(parser.ok()) << parser.status().ToString();
    parser_.emplace(*std::move(parser));
    parser_->Shape(&batch_);
  }

  RowParser::Outcome Parse(const std::string& line) {
    std::string padded = line;
    padded.append(kLinePaddingBytes, '\t');  // What is behind the line must not matter.
    return parser_->Parse({padded.data(), line.size()}, &batch_);
  }

  // The last row.
  Row Last() { return RowsOf(batch_, parser_->plan()).back(); }

  // "1" and 39 columns, of which those named are set.
  static std::string Criteo(const std::map<int, std::string>& cells) {
    std::string line = "1";
    for (int i = 1; i < 40; ++i) {
      line += '\t';
      line += cells.count(i) > 0 ? cells.at(i) : "";
    }
    return line;
  }

  std::optional<RowParser> parser_;
  Batch batch_;
};

// Keys are part of every checkpoint: these values never change.
TEST_F(RowParserTest, KeysAreForEver) {
  Use(R"(fields { name: "C1" } fields { name: "C2" salt_by_field: true } fields { name: "C3" })");
  ASSERT_EQ(Parse(Criteo({{14, "68fd1e64"}, {15, "68fd1e64"}})), RowParser::Outcome::kRow);
  EXPECT_EQ(batch_.sparse[0].keys[0], 0x00b0431058060b4dULL);
  EXPECT_EQ(batch_.sparse[1].keys[0], 0x8d420e03ce77e537ULL);
  EXPECT_EQ(batch_.sparse[2].keys[0], 0xeb9382ac0c74d731ULL);
}

TEST_F(RowParserTest, CriteoColumnsAndMissingValues) {
  Use(R"(hash_seed: 5 fields { name: "I*" kind: DENSE } fields { name: "C*" })");
  ASSERT_EQ(Parse(Criteo({{1, "3"}, {13, "-2"}, {14, "aa"}, {39, "zz"}})),
            RowParser::Outcome::kRow);
  const Row row = Last();
  EXPECT_EQ(row.label, 1);
  ASSERT_EQ(row.dense.size(), 13U);
  EXPECT_EQ(row.dense[0], 3);
  EXPECT_EQ(row.dense[1], 0);
  EXPECT_EQ(row.dense[12], -2);
  EXPECT_THAT(row.keys[0], ElementsAre(KeyOf("aa", 5)));
  EXPECT_THAT(row.keys[1], ElementsAre(MissingKey("C2", 5)));
  EXPECT_THAT(row.keys[25], ElementsAre(KeyOf("zz", 5)));
}

TEST_F(RowParserTest, Transforms) {
  Use(R"(fields { name: "I1" kind: DENSE transform: LOG1P }
         fields { name: "I2" kind: DENSE transform: STANDARD mean: 10 stddev: 4 }
         fields { name: "I3" kind: DENSE transform: SQUARED_LOG_BUCKET })");
  ASSERT_EQ(Parse(Criteo({{1, "99999"}, {2, "4"}, {3, "100"}})), RowParser::Outcome::kRow);
  EXPECT_EQ(Last().dense[0], static_cast<float>(std::log1p(99999.0)));
  EXPECT_EQ(Last().dense[1], -1.5F);
  EXPECT_THAT(Last().keys[0], ElementsAre(KeyOf("21")));  // ln(100)^2 = 21.2.
  ASSERT_EQ(Parse(Criteo({{1, "-1"}, {3, "2"}})), RowParser::Outcome::kRow);
  EXPECT_EQ(Last().dense[0], 0);
  EXPECT_EQ(Last().dense[1], 0);
  EXPECT_THAT(Last().keys[0], ElementsAre(KeyOf("2")));
  ASSERT_EQ(Parse(Criteo({{1, "7"}, {3, "-3"}})), RowParser::Outcome::kRow);
  EXPECT_EQ(Last().dense[0], static_cast<float>(std::log1p(7.0)));
  EXPECT_THAT(Last().keys[0], ElementsAre(KeyOf("-3")));
  ASSERT_EQ(Parse(Criteo({})), RowParser::Outcome::kRow);
  EXPECT_THAT(Last().keys[0], ElementsAre(MissingKey("I3", 0)));
}

TEST_F(RowParserTest, MalformedCriteoLinesSayWhy) {
  Use(R"(fields { name: "I*" kind: DENSE } fields { name: "C*" })");
  const std::pair<std::string, std::string> wrong[] = {
      {"1\t2", "2 columns instead of 40"},
      {Criteo({}) + "\t", "41 columns"},
      {Criteo({{3, "x1"}}), "column I3 is not a number: \"x1\""},
      {Criteo({{3, "inf"}}), "column I3"},
      {Criteo({{3, "1e39"}}), "column I3 is out of range"},
      {Criteo({{3, "0x10"}}), "column I3"},
      {Criteo({{3, "+-1"}}), "column I3"},
      {std::string("x") + Criteo({}), "the label is not a number"},
      {Criteo({}).substr(1), "the label is not a number"},
  };
  for (const auto& [line, reason] : wrong) {
    EXPECT_EQ(Parse(line), RowParser::Outcome::kMalformed) << line;
    EXPECT_THAT(parser_->reason(), HasSubstr(reason));
  }
  EXPECT_EQ(batch_.samples, 0U);
  EXPECT_TRUE(batch_.labels.empty() && batch_.dense.empty() && batch_.sparse[0].keys.empty());
}

TEST_F(RowParserTest, LongDelimiterLabelsAndGroups) {
  Use(R"(format: DELIMITED delimiter: "::" columns: "user" columns: "movie" columns: "rating"
         label { column: "rating" positive_at_least: 4 skip: 3 } group_column: "user"
         fields { name: "movie" } fields { name: "who" column: "user" })");
  EXPECT_EQ(Parse("12::1193::4.5"), RowParser::Outcome::kRow);
  EXPECT_EQ(Last().label, 1);
  EXPECT_EQ(Last().group, KeyOf("12"));
  EXPECT_THAT(Last().keys, ElementsAre(ElementsAre(KeyOf("1193")), ElementsAre(KeyOf("12"))));
  EXPECT_EQ(Parse("12::a:b::3.9"), RowParser::Outcome::kRow);
  EXPECT_EQ(Last().label, 0);
  EXPECT_THAT(Last().keys[0], ElementsAre(KeyOf("a:b")));
  EXPECT_EQ(Parse("12::5::3"), RowParser::Outcome::kSkipped);
  EXPECT_EQ(Parse("12::5::3::1"), RowParser::Outcome::kMalformed);
  EXPECT_EQ(batch_.samples, 2U);
}

TEST_F(RowParserTest, CsvQuotes) {
  Use(R"(format: DELIMITED columns: "label" columns: "a" columns: "b"
         fields { name: "a" } fields { name: "b" })");
  EXPECT_EQ(Parse(R"(1,"x, ""y""",z)"), RowParser::Outcome::kRow);
  EXPECT_THAT(Last().keys, ElementsAre(ElementsAre(KeyOf("x, \"y\"")), ElementsAre(KeyOf("z"))));
  EXPECT_EQ(Parse(R"("0","",)"), RowParser::Outcome::kRow);
  EXPECT_THAT(Last().keys,
              ElementsAre(ElementsAre(MissingKey("a", 0)), ElementsAre(MissingKey("b", 0))));
  EXPECT_EQ(Parse(R"(1,x"y",z)"),
            RowParser::Outcome::kRow);  // Quotes count at a cell's start only.
  EXPECT_THAT(Last().keys[0], ElementsAre(KeyOf("x\"y\"")));
  EXPECT_EQ(Parse(R"(1,"x,z)"), RowParser::Outcome::kMalformed);
  EXPECT_THAT(parser_->reason(), HasSubstr("not closed"));
  EXPECT_EQ(Parse(R"(1,"x"y,z)"), RowParser::Outcome::kMalformed);
  EXPECT_EQ(Parse(R"(1,"x","z",)"), RowParser::Outcome::kMalformed);
}

TEST_F(RowParserTest, HeaderNamesColumns) {
  Use(R"(format: DELIMITED fields { name: "b" })");
  ASSERT_TRUE(parser_->has_header());
  ASSERT_TRUE(parser_->SetHeader("a,\"b\",label").ok());
  EXPECT_EQ(Parse("x,y,1"), RowParser::Outcome::kRow);
  EXPECT_THAT(Last().keys[0], ElementsAre(KeyOf("y")));
  const Status missing = parser_->SetHeader("a,c,label");
  EXPECT_EQ(missing.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(missing.message(), HasSubstr("\"b\""));
  EXPECT_THAT(parser_->SetHeader("b,b,label").message(), HasSubstr("twice"));
  EXPECT_THAT(parser_->SetHeader("\"b,label").message(), HasSubstr("not closed"));
  EXPECT_FALSE(parser_->SetHeader("").ok());
}

TEST_F(RowParserTest, MultiValuedFieldsAreJagged) {
  Use(R"(format: DELIMITED delimiter: "\t" columns: "label" columns: "g" columns: "h"
         fields { name: "g" kind: MULTI_VALUED } fields { name: "h" kind: MULTI_VALUED separator: ", " })");
  EXPECT_EQ(Parse("1\ta|b||c\tp, q"), RowParser::Outcome::kRow);
  EXPECT_EQ(Parse("1\t|\t"), RowParser::Outcome::kRow);
  EXPECT_THAT(batch_.sparse[0].offsets, ElementsAre(0, 3, 4));
  EXPECT_THAT(batch_.sparse[0].keys,
              ElementsAre(KeyOf("a"), KeyOf("b"), KeyOf("c"), MissingKey("g", 0)));
  EXPECT_THAT(batch_.sparse[1].keys, ElementsAre(KeyOf("p"), KeyOf("q"), MissingKey("h", 0)));
  EXPECT_TRUE(batch_.sparse[0].weights.empty());
}

TEST_F(RowParserTest, Libsvm) {
  Use(R"(format: LIBSVM fields { name: "features" tables: "t" })");
  EXPECT_EQ(Parse("+1 3:0.5  17:-2 # note"), RowParser::Outcome::kRow);
  EXPECT_EQ(Parse("-1\t4:1e-3"), RowParser::Outcome::kRow);
  EXPECT_EQ(Parse("0"), RowParser::Outcome::kRow);
  EXPECT_THAT(batch_.labels, ElementsAre(1, 0, 0));
  EXPECT_THAT(batch_.sparse[0].offsets, ElementsAre(0, 2, 3, 4));
  EXPECT_THAT(batch_.sparse[0].keys,
              ElementsAre(KeyOf("3"), KeyOf("17"), KeyOf("4"), MissingKey("features", 0)));
  EXPECT_THAT(batch_.sparse[0].weights, ElementsAre(0.5F, -2, 1e-3F, 1));
  for (const char* wrong :
       {"1 3", "1 :2", "1 a:2", "1 3:", "1 3:x", "1 3:1e99", "1 2:3:4", " 1 2:3"}) {
    EXPECT_EQ(Parse(wrong), RowParser::Outcome::kMalformed) << wrong;
  }
  EXPECT_EQ(batch_.samples, 3U);
}

}  // namespace
}  // namespace plexus
