#include "proto/job.h"

#include <cstdio>
#include <fstream>

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include "tests/unit/proto/sample_job.h"

namespace plexus {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::util::MessageDifferencer;
using testing::HasSubstr;

proto::Job Parse(const std::string& text) {
  StatusOr<proto::Job> job = ParseJob(text, "job", {});
  CHECK(job.ok()) << job.status().ToString();
  return *std::move(job);
}

void ExpectEverythingSet(const Message& message) {
  const auto& type = *message.GetDescriptor();
  const auto& r = *message.GetReflection();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor* field = type.field(i);
    if (field->is_repeated()) {
      for (int k = 0; k < r.FieldSize(message, field); ++k) {
        if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
          ExpectEverythingSet(r.GetRepeatedMessage(message, field, k));
        }
      }
      continue;
    }
    EXPECT_TRUE(r.HasField(message, field)) << field->full_name();
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      ExpectEverythingSet(r.GetMessage(message, field));
    }
  }
}

TEST(JobTest, ResolvedJobSaysEverything) {
  ExpectEverythingSet(Parse(kSampleJob));
  ExpectEverythingSet(Parse(kDelimitedJob));
  ExpectEverythingSet(Parse(kLibsvmJob));
}

TEST(JobTest, OptimizersInheritTheLearningRateAndTheirRulesEpsilon) {
  const proto::Job job = Parse(kSampleJob);
  EXPECT_EQ(job.tables(0).optimizer().learning_rate(), 0.5);
  EXPECT_EQ(job.tables(0).optimizer().epsilon(), 1e-10);
  EXPECT_EQ(job.tables(1).optimizer().kind(), proto::Optimizer::SGD);
  EXPECT_EQ(job.train().dense_optimizer().kind(), proto::Optimizer::ADAM);
  EXPECT_EQ(job.train().dense_optimizer().learning_rate(), 0.5);
  EXPECT_EQ(job.train().dense_optimizer().epsilon(), 1e-8);
}

TEST(JobTest, DenseOptimizerWithoutKindIsAdam) {
  const proto::Job job =
      Parse(std::string(kDelimitedJob) + "train { dense_optimizer { learning_rate: 0.25 } }");
  EXPECT_EQ(job.train().dense_optimizer().kind(), proto::Optimizer::ADAM);
  EXPECT_EQ(job.train().dense_optimizer().learning_rate(), 0.25);
}

TEST(JobTest, LibsvmFieldIsMultiValued) {
  EXPECT_EQ(Parse(kLibsvmJob).data().fields(0).kind(), proto::Field::MULTI_VALUED);
}

TEST(JobTest, PrintedJobReadsBackEqual) {
  for (const char* text : {kSampleJob, kDelimitedJob, kLibsvmJob}) {
    const proto::Job job = Parse(text);
    EXPECT_TRUE(MessageDifferencer::Equals(Parse(PrintJob(job)), job));
    EXPECT_EQ(PrintJob(Parse(PrintJob(job))), PrintJob(job));
  }
}

TEST(JobTest, PrintedNumbersKeepTheirBits) {
  StatusOr<proto::Job> job =
      ParseJob(kSampleJob, "job", {"train.learning_rate=0.1000000000000000055511151231257827"});
  ASSERT_TRUE(job.ok()) << job.status().ToString();
  job->mutable_train()->set_learning_rate(1.0 / 3);
  EXPECT_EQ(Parse(PrintJob(*job)).train().learning_rate(), 1.0 / 3);
}

TEST(JobTest, RunnableJobNeedsTrainingData) {
  EXPECT_TRUE(CheckRunnable(Parse(kSampleJob)).ok());
  const Status status = CheckRunnable(Parse(kDelimitedJob));
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("--set data.train=FILE"));
}

TEST(JobTest, LoadsAFile) {
  const std::string path = testing::TempDir() + "/job_test.textproto";
  std::ofstream(path) << kSampleJob;
  StatusOr<proto::Job> job = LoadJob(path, {"train.seed=7"});
  ASSERT_TRUE(job.ok()) << job.status().ToString();
  EXPECT_EQ(job->train().seed(), 7u);
  std::ofstream(path) << "train {\n  ranks: 0\n}\n";
  EXPECT_THAT(LoadJob(path, {}).status().message(), HasSubstr(path + ":2:3: ranks 0"));
  std::remove(path.c_str());
}

TEST(JobTest, MissingFileIsNotFound) {
  EXPECT_EQ(LoadJob("no/such.textproto", {}).status().code(), StatusCode::kNotFound);
}

TEST(JobTest, FolderIsNoJob) { EXPECT_FALSE(LoadJob(testing::TempDir(), {}).ok()); }

TEST(JobTest, ByteSizes) {
  EXPECT_EQ(ParseByteSize("0").value(), 0u);
  EXPECT_EQ(ParseByteSize("4096").value(), 4096u);
  EXPECT_EQ(ParseByteSize("3KiB").value(), 3072u);
  EXPECT_EQ(ParseByteSize("512MiB").value(), 512ull << 20);
  EXPECT_EQ(ParseByteSize("2GiB").value(), 2ull << 30);
  for (const char* text : {"", "MiB", "5MB", "5 MiB", "-1", "1.5GiB", "5mib", "5MiB ", "0x10",
                           "9223372036854775808", "8589934592GiB", "99999999999999999999"}) {
    EXPECT_EQ(ParseByteSize(text).status().code(), StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace plexus
