// plexus-ps: the ps of a job; see --help.
#include "launch/role.h"

int main(int argc, char** argv) { return plexus::RoleMain(plexus::proto::SERVER, argc, argv); }
