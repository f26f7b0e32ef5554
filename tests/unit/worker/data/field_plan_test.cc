#include "worker/data/field_plan.h"

#include <gtest/gtest.h>

#include "tests/unit/worker/data/data_testing.h"

namespace plexus {
namespace {

TEST(FieldPlanTest, ExpandsCriteoInTheJobsOrder) {
  const auto plan = PlanFields(DataOf(R"(
    fields { name: "C*" tables: "a" tables: "b" }
    fields { name: "I*" kind: DENSE transform: LOG1P })"));
  ASSERT_TRUE(plan.ok()) << plan.status().ToString();
  ASSERT_EQ(plan->sparse.size(), 26U);
  ASSERT_EQ(plan->dense.size(), 13U);
  EXPECT_EQ(plan->sparse[0].name, "C1");
  EXPECT_EQ(plan->sparse[25].name, "C26");
  EXPECT_EQ(plan->sparse[3].tables, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(plan->dense[12].name, "I13");
  EXPECT_EQ(plan->columns.size(), 40U);
}

TEST(FieldPlanTest, BucketedDenseColumnsAreSparse) {
  const auto plan = PlanFields(
      DataOf(R"(fields { name: "I2" kind: DENSE transform: SQUARED_LOG_BUCKET tables: "t" })"));
  ASSERT_TRUE(plan.ok());
  EXPECT_TRUE(plan->dense.empty());
  ASSERT_EQ(plan->sparse.size(), 1U);
  EXPECT_EQ(plan->sparse[0].kind, SparseField::Kind::kBucketed);
}

TEST(FieldPlanTest, StarLeavesOutTheLabel) {
  const auto plan =
      PlanFields(DataOf(R"(format: DELIMITED columns: "u" columns: "label" columns: "x"
    fields { name: "*" tables: "t" })"));
  ASSERT_TRUE(plan.ok());
  ASSERT_EQ(plan->sparse.size(), 2U);
  EXPECT_EQ(plan->sparse[1].name, "x");
}

TEST(FieldPlanTest, SaltSeedsByName) {
  const auto plan = PlanFields(DataOf(R"(hash_seed: 7
    fields { name: "C1" salt_by_field: true } fields { name: "C2" })"));
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->sparse[0].hash_seed, HashBytes("C1", 7));
  EXPECT_EQ(plan->sparse[1].hash_seed, 7U);
  EXPECT_EQ(plan->sparse[0].missing_key, MissingKey("C1", 7));
}

TEST(FieldPlanTest, RefusesWhatCannotBeRead) {
  const char* const wrong[] = {
      R"(fields { name: "C27" })",
      R"(fields { name: "X*" })",
      R"(fields { kind: DENSE })",
      R"(fields { name: "C1" } fields { name: "C*" })",
      R"(fields { name: "C*" column: "C1" })",
      R"(label { column: "click" } fields { name: "C1" })",
      R"(group_column: "user" fields { name: "C1" })",
      R"(fields { name: "I1" kind: DENSE transform: STANDARD stddev: 0 })",
      R"(fields { name: "C1" kind: MULTI_VALUED separator: "" })",
      R"(format: DELIMITED fields { name: "C*" })",
      R"(format: LIBSVM fields { name: "C1" })",
      R"(format: LIBSVM)",
      R"(format: LIBSVM group_column: "qid" fields { name: "features" })",
  };
  for (const char* text : wrong) {
    const auto plan = PlanFields(DataOf(text));
    ASSERT_FALSE(plan.ok()) << text;
    EXPECT_EQ(plan.status().code(), StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace plexus
