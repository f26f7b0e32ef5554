// plexus-worker: the worker of a job; see --help.
#include "launch/role.h"

int main(int argc, char** argv) { return plexus::RoleMain(plexus::proto::WORKER, argc, argv); }
