// Package migratetest runs migrations between real stores: servers in processes of
// their own, and directories.
package migratetest
